"""Own standards, the payment record and the economic composite: through the whole chain, with reasons that add up."""

from __future__ import annotations

from datetime import date
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pytest

from clv import composite, criteria, points
from clv.config import Config, load
from clv.errors import ConfigError, ModelError
from clv.models.shapley import Attribution

GOLDEN = Path(__file__).parent / "golden"
AS_OF = date(2026, 1, 1)
OWN = (
    "standards={staff: {attribute: employee_count, direction: lower, label: size of staff}, "
    "fit: {judgement: true, label: strategic fit}}"
)
WEIGHTS = "composite.weights={lifetime_value: 0.4, payment_record: 0.2, staff: 0.2, fit: 0.2}"


def tiny(*settings: str) -> Config:
    return load(GOLDEN / "tiny.yaml", list(settings))


def graded(pipelines: SimpleNamespace, place: Path, name: str, *settings: str) -> dict[str, pd.DataFrame]:
    """Tables of the tiny company, trained and graded for one month under `settings`."""
    config = tiny(
        f"warehouse.path={place / name}.duckdb",
        f"mlflow.tracking_uri=sqlite:///{place}/{name}.db",
        f"mlflow.artifact_dir={place / name}",
        "tiers.firmness_months=2",
        *settings,
    )
    pipelines.train(config, AS_OF)
    pipelines.score(config, AS_OF)
    with duckdb.connect(str(place / f"{name}.duckdb"), read_only=True) as connection:
        return {
            table: connection.execute(f"SELECT * FROM clv.{table}").df()
            for table in ("grades", "criteria", "reasons", "month_facts")
        }


@pytest.mark.slow  # one training
def test_own_standards_count_and_are_explained_like_the_others(
    pipelines: SimpleNamespace, tmp_path: Path
) -> None:
    judged = tmp_path / "judgements.csv"
    rows = [f"K{i:03d},fit,{10 * (i % 10)},eva,2025-12-01,2026-06-30,talk" for i in range(1, 50)]
    header = "customer_id,criterion,score,judged_by,judged_date,valid_until,note"
    judged.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    found = graded(pipelines, tmp_path, "own", OWN, WEIGHTS, f"sources.judgements.path={judged}")
    table = found["criteria"].set_index(["customer_id", "criterion"])
    grades = found["grades"].query("value_source == 'history'").set_index("customer_id")
    staff = table.xs("staff", level="criterion").loc[grades.index]
    measured = staff["score"].notna()
    assert measured.sum() > 20
    # Of less staff more is thought.
    assert staff.loc[measured, "value"].corr(staff.loc[measured, "score"], method="spearman") < -0.99
    fit = table.xs("fit", level="criterion")
    assert fit["value"].notna().sum() >= 30
    assert set(fit.loc[fit["value"].isna(), "why"]) == {"not on record"}
    reasons = found["reasons"]
    sentences = reasons.loc[reasons["concept"] == "standard:staff", "sentence"]
    assert sentences.str.startswith("Size of staff: ").any()
    assert sentences.str.contains("(size of staff)", regex=False).all()
    total = reasons.groupby("customer_id")["points"].sum()
    gap = (grades["composite_score"] - grades["composite_baseline"]).dropna()
    assert (total.loc[gap.index] - gap).abs().max() < 1e-6
    # The record of the last year grades on its own, beside the model.
    record = table.xs("payment_record", level="criterion")["value"].dropna()
    assert record.between(0, 1).all()
    assert (record - grades["on_time_share_ratio"].reindex(record.index)).abs().max() < 1e-12


@pytest.mark.slow  # one training
def test_the_economic_composite_is_money_and_its_reasons_add_up(
    pipelines: SimpleNamespace, tmp_path: Path
) -> None:
    found = graded(pipelines, tmp_path, "economic", "composite={method: economic}")
    grades = found["grades"].query("value_source == 'history'").set_index("customer_id")
    table = found["criteria"].set_index(["customer_id", "criterion"])
    money = table.xs("economic_value", level="criterion").loc[grades.index]
    value = table.xs("lifetime_value", level="criterion")["value"].loc[grades.index]
    cost = value - money["value"]
    assert (cost >= -1e-9).all()
    assert (cost > 0).any()
    assert set(money["weight"]) == {1.0}
    assert set(table.xs("payment", level="criterion")["weight"]) == {
        0.0
    }  # late money is charged once, in the figure
    ranked = (
        grades.assign(money=money["value"]).dropna(subset=["composite_rank"]).sort_values("composite_rank")
    )
    assert ranked["money"].diff().dropna().le(1e-6).all()
    reasons = found["reasons"]
    total = reasons.groupby("customer_id")["points"].sum()
    gap = (grades["composite_score"] - grades["composite_baseline"]).dropna()
    assert (total.loc[gap.index] - gap).abs().max() < 1e-6
    assert not set(reasons["criterion"].dropna()) - {"economic_value", "prospect"}


class _Money:
    """A value model of one log-linear input, and a cost to serve of 2."""

    players = (points.RULES["contribution"],)
    reference = (1.0,)
    reference_cost = 1.0
    basis = "contribution"

    def attribute(self, frame: pd.DataFrame, inputs: np.ndarray) -> Attribution:
        raw = np.log(inputs[:, 0])
        return Attribution(raw, 0.0, raw[:, None])

    def money(self, raw: np.ndarray) -> np.ndarray:
        return 100 * np.exp(raw)

    def expected_cost_to_serve(self, frame: pd.DataFrame) -> np.ndarray:
        return np.full(len(frame), 2.0)

    def design(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[["x"]]


def test_points_of_the_economic_composite_are_shapley_values_over_all_orders() -> None:
    frame = pd.DataFrame({"x": [3.0, 0.4, 1.0]})
    costs = pd.DataFrame(
        {"expected_late_money_cost": [30.0, 5.0, 4.0], "expected_credit_loss": [8.0, 9.0, 3.0]}
    )
    usual = {"expected_late_money_cost": 4.0, "expected_credit_loss": 3.0}
    reference = 100.0 - 1 - 4 - 3
    sample = np.random.default_rng(1).lognormal(4, 1, 400)
    scale = composite.fit(
        {"economic_value": sample},
        {"economic_value": "log"},
        {"economic_value": reference},
        trained_as_of=AS_OF,
    ).scales["economic_value"]
    found = points.economic_points(_Money(), frame, costs, usual, scale)  # type: ignore[arg-type]
    for row in range(3):
        own = [100 * frame["x"][row], 2.0, costs.iloc[row, 0], costs.iloc[row, 1]]
        base = [100.0, 1.0, 4.0, 3.0]
        shares = np.zeros(4)
        for order in permutations(range(4)):
            now = list(base)
            for player in order:
                before = float(scale.score(now[0] - sum(now[1:])))
                now[player] = own[player]
                shares[player] += (float(scale.score(now[0] - sum(now[1:]))) - before) / 24
        assert found.points[row] == pytest.approx(shares, abs=1e-9)
        total = float(scale.score(own[0] - sum(own[1:])))
        assert scale.baseline + found.points[row].sum() == pytest.approx(total, abs=1e-9)


def test_what_late_money_is_expected_to_cost_by_hand() -> None:
    customers = pd.DataFrame(
        {
            "customer_id": ["a", "b", "c"],
            "late_payment_probability": [0.4, 0.1, np.nan],
            "expected_days_late": [36.5, 0.0, np.nan],
            "probability_active": [0.5, np.nan, 1.0],
            "open_balance": [100.0, 0.0, np.nan],
            "late_money_cost": [1.0, 1.0, np.nan],
        }
    )
    rows = pd.DataFrame({"customer_id": ["a", "a", "b"], "billed": [1000.0, 1000.0, 500.0]})
    found = criteria.expected_costs(customers, rows, tiny(), 365)
    # a: 1000 billed × 0.5 + 100 open = 600; × 36.5/365 × 8 %, and × 0.4 × 5 % × 50 %.
    assert found["expected_late_money_cost"].tolist() == pytest.approx([4.8, 0.0, 0.0])
    assert found["expected_credit_loss"].tolist() == pytest.approx([6.0, 500 * 0.1 * 0.05 * 0.5, 0.0])
    recorded = customers.assign(late_payment_probability=np.nan)
    assert criteria.expected_costs(recorded, rows, tiny(), 73)[
        "expected_late_money_cost"
    ].tolist() == pytest.approx([0.2, 0.2, 0.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["composite.scale=percentile"], "averaged percentiles lose the distances"),
        (["composite.scale=min-max"], "one largest customer press all others together"),
        (["composite={method: economic, weights: {payment: 1.0}}"], "method economic has none"),
        (["standards={staff: {label: staff}}"], "needs either"),
        (["standards={staff: {attribute: industry, label: x}}"], "declared attribute of type number"),
        (["standards={payment: {judgement: true, label: x}}"], "the name is taken"),
        (["composite.weights={charm: 1.0}"], "unknown criterion 'charm'"),
        (["tiers.measure=charm"], "unknown measure"),
        (['composite.pairwise={eva: {"payment/contribution": 3, "payment/lifetime_value": 1/3, '
          '"contribution/lifetime_value": 5}}'], "consistency ratio"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_with_the_reason(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(*settings)


def test_weights_from_pairs_replace_the_given_ones_and_count_late_money_once() -> None:
    pairs = '{"lifetime_value/contribution": 3}'
    config = tiny(f"composite.pairwise={{eva: {pairs}}}")
    assert config.weights == pytest.approx({"lifetime_value": 0.75, "contribution": 0.25})
    assert config.charges_late_money  # payment does not count
    assert not tiny("composite.weights={payment_record: 1.0}").charges_late_money
    assert not tiny("composite={method: economic}").charges_late_money


def test_scales_of_another_method_are_refused() -> None:
    from tests.test_grades import customers_of, measured_of  # the builder of a measured month

    with pytest.raises(ModelError, match=r"expected scales by composite\.scale log_percentile, found log_z"):
        customers_of(measured_of(30), tiny("composite.scale=log_percentile"))
