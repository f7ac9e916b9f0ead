"""What a training run leaves behind in MLflow, read back from a real store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import yaml

from clv import champions, criteria, drivers, grades, ingest, tracking
from clv.champions import Champions
from clv.config import Config
from clv.contribution import price_lines
from clv.criteria import Measured
from clv.errors import ModelError
from clv.pseudonyms import pseudonyms
from clv.simulate import simulate
from clv.warehouse import workspace_of

ROOT = Path(__file__).parents[1]
AS_OF = date(2026, 1, 1)
MODELS = ("lifetime-value", "payment-delay", "prospect-value")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "invented.duckdb"
    simulate(path, customers=300, prospects=200, seed=11, history_months=36, threads=1)
    tables = (
        "customers",
        "products",
        "order_lines",
        "invoices",
        "payments",
        "service_events",
        "exchange_rates",
    )
    category = {"type": "category", "known_at": "first_contact"}
    return Config.model_validate(
        {
            "company": "invented",
            "reporting_currency": "EUR",
            "sources": {name: {"table": f"company.{name}"} for name in tables},
            "attributes": {"industry": category, "lead_source": category},
            "segment": ["industry"],
            "lifetime_value": {"horizon_months": 6},
            "payment": {"training_months": 15},
            "engine": {"threads": 1},
            "warehouse": {"path": str(path)},
            "mlflow": {
                "tracking_uri": f"sqlite:///{folder / 'mlflow.db'}",
                "artifact_dir": str(folder / "artifacts"),
            },
        }
    )


@pytest.fixture(scope="module")
def run(config: Config) -> Iterator[Any]:
    """The MLflow run of one training."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        patch.syspath_prepend(str(ROOT / "pipelines"))
        from train import train

        run_id = train(config, AS_OF)
        yield tracking._client(config.mlflow.tracking_uri).get_run(run_id)


@pytest.fixture(scope="module")
def logged(run: Any) -> dict[str, Path]:
    """Path within the run -> file."""
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def measured(run: Any, config: Config) -> tuple[Champions, Measured]:
    """The models of that training, and what they measure on its date."""
    store = tracking.Store("invented", config.mlflow.tracking_uri, Path(config.mlflow.artifact_dir))
    champion = champions.load(store, champions.find(store, AS_OF, run.info.run_id))
    with workspace_of(config) as db:
        ingest.load(db, config, AS_OF)
        return champion, criteria.measure(db, AS_OF, config, price_lines(db, config), champion.models)


def test_parameters_say_what_was_trained_on_what(run: Any, config: Config) -> None:
    params = run.data.params
    assert run.info.status == "FINISHED"
    assert (run.data.tags["kind"], run.data.tags["as_of"]) == ("train", "2026-01-01")
    assert (params["as_of"], params["value_basis"], params["seed"]) == ("2026-01-01", "contribution", "7")
    assert params["config_hash"] == config.hash
    assert params["lifetime_value.horizon_months"] == "6"
    assert int(params["rows.order_lines"]) > 1000


def test_the_resolved_configuration_and_the_fingerprint_of_the_data(
    logged: dict[str, Path], config: Config
) -> None:
    assert Config.model_validate(yaml.safe_load(logged["config.yaml"].read_text())) == config
    table = json.loads(logged["data_fingerprint.json"].read_text())
    fingerprints = dict(table["data"])
    assert {"order_lines", "invoices", "payments"} <= set(fingerprints)
    assert fingerprints["order_lines"] != fingerprints["invoices"]


def test_figures_of_the_model_stand_beside_those_of_its_baselines(run: Any, logged: dict[str, Path]) -> None:
    metrics = run.data.metrics
    for model, figure, baselines in (
        ("lifetime-value", "normalised_gini", ("last_period", "btyd", "bgnbd")),
        ("payment-delay", "brier", ("segment_rate", "shrunk_ratio", "logistic")),
        ("prospect-value", "brier", ("mean_rate", "segment_rate", "logistic")),
    ):
        assert all(f"{model}/{name}/{figure}" in metrics for name in ("model", *baselines))
        assert f"{model}/forecasts.json" in logged


def test_pictures_show_the_test_and_what_drives_each_model(logged: dict[str, Path]) -> None:
    outputs = (
        "lifetime-value/shap",
        "payment-delay/shap",
        "prospect-value/shap_conversion",
        "prospect-value/shap_value",
    )
    driven = {f"{name}_{kind}.png" for name in outputs for kind in ("beeswarm", "concepts", "dependence")}
    graded = {
        f"explanations/{kind}_{tier}.png"
        for kind, tiers in {
            "customer": ("concepts", "important", "main", "ordinary", "small"),
            "prospect": ("concepts", "hot", "warm", "cool", "cold"),
        }.items()
        for tier in tiers
    }
    assert {name for name in logged if name.endswith(".png")} == driven | graded | {
        "lifetime-value/gains.png",
        "lifetime-value/deciles.png",
        "lifetime-value/lorenz.png",
        "lifetime-value/tiers.png",
        "lifetime-value/course.png",
        "payment-delay/calibration.png",
        "payment-delay/calibration_by_month.png",
        "payment-delay/calibration_by_segment.png",
        "prospect-value/calibration.png",
        "prospect-value/gains.png",
        "receivables/ageing.png",
        "receivables/by_month.png",
        "receivables/delay_reasons.png",
        "receivables/roll_rates.png",
        "receivables/roll_rates_by_month.png",
    }


def test_the_figures_behind_the_pictures_are_tables(run: Any, logged: dict[str, Path]) -> None:
    tables = {}
    for name in ("deciles", "tiers", "course"):
        stored = json.loads(logged[f"lifetime-value/{name}.json"].read_text())
        tables[name] = pd.DataFrame(stored["data"], columns=stored["columns"])
    realised = run.data.metrics["lifetime-value/model/total_realised"]
    assert len(tables["deciles"]) == 10
    assert (tables["deciles"]["realised"] * tables["deciles"]["customers"]).sum() == pytest.approx(realised)
    assert tables["tiers"]["realised"].sum() == pytest.approx(realised)
    assert tables["course"]["realised_value"].iloc[-1] == pytest.approx(realised)
    assert tables["course"]["date"].iloc[-1] == "2026-01-01"


def test_tables_show_the_ledger_and_where_the_payment_model_errs(logged: dict[str, Path]) -> None:
    def table(name: str) -> tuple[list[str], list[list[Any]]]:
        content = json.loads(logged[f"{name}.json"].read_text())
        return content["columns"], content["data"]

    assert [row[0] for row in table("receivables/ageing")[1]] == [
        "not due",
        "1–30",
        "31–60",
        "61–90",
        "over 90",
    ]
    assert len(table("receivables/by_month")[1]) == 13
    assert [row[0] for row in table("payment-delay/thresholds")[1]] == ["0", "30", "60", "90"]
    columns, rows = table("payment-delay/calibration_by_decile")
    assert columns == ["decile", "rows", "mean_predicted", "mean_realised", "error", "standard_error"]
    assert len(rows) == 10


def test_our_shapley_values_are_those_of_the_package_and_the_run_says_how_closely(run: Any) -> None:
    found = {name: run.data.metrics[f"{name}/shap_difference"] for name in MODELS}
    assert all(0 < difference < 1e-6 for difference in found.values()), found


def test_shapley_values_that_part_from_the_package_stop_the_training(
    measured: tuple[Champions, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, facts = measured
    monkeypatch.setattr(drivers, "TOLERANCE", 1e-12)
    with pytest.raises(ModelError, match=r"within 1e-12, found differences of .*\(payment-delay\)"):
        drivers.differences(champion.models, facts)


def test_the_table_of_points_adds_up_to_the_grades_under_keyed_pseudonyms(
    measured: tuple[Champions, Measured], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, facts = measured
    monkeypatch.setenv("CLV_PSEUDONYM_KEY", "a secret")
    nobody = grades.NOBODY
    customers = grades.grade_customers(facts, champion.grading, config, nobody, nobody, policy_reset=True)
    leads = grades.grade_prospects(facts, champion.grading, config, nobody, nobody, AS_OF, policy_reset=True)
    table, again = (
        drivers.of_grades(customers, leads, facts, champion.models, champion.grading, config).tables[
            "explanations/points"
        ]
        for _ in range(2)
    )
    pd.testing.assert_frame_equal(table, again)
    people = pd.concat([customers.frame[customers.frame["tier"] != "inactive"], leads.frame])
    people = people[people["composite_score"].notna()]
    scores = people["composite_score"].set_axis(pseudonyms("invented", people["customer_id"]))
    total = table.groupby("pseudonym")["points"].sum()
    assert set(total.index) == set(scores.index)  # fewer than 2,000 of each: all of them
    assert np.abs(total - scores.reindex(total.index)).max() < 1e-6
    monkeypatch.setenv("CLV_PSEUDONYM_KEY", "another secret")
    assert not set(pseudonyms("invented", people["customer_id"])) & set(total.index)


def test_a_picture_of_a_tier_is_of_five_from_its_first_to_its_last(
    measured: tuple[Champions, Measured], config: Config
) -> None:
    champion, facts = measured
    nobody = grades.NOBODY
    customers = grades.grade_customers(facts, champion.grading, config, nobody, nobody, policy_reset=True)
    leads = grades.grade_prospects(facts, champion.grading, config, nobody, nobody, AS_OF, policy_reset=True)
    shown = drivers.of_grades(customers, leads, facts, champion.models, champion.grading, config)
    frame = customers.frame
    for tier in ("important", "main", "ordinary", "small"):
        scores = frame.loc[frame["tier"] == tier, "composite_score"].sort_values(ascending=False)
        titles = [axes.get_title(loc="left") for axes in shown.figures[f"explanations/customer_{tier}"].axes]
        found = [float(title.split()[-1]) for title in titles if title]
        assert len(found) == min(5, len(scores))
        assert (found[0], found[-1]) == (round(scores.iloc[0], 1), round(scores.iloc[-1], 1))
        assert found == sorted(found, reverse=True)


def test_every_model_has_a_signature_and_an_invented_example(run: Any, config: Config) -> None:
    import mlflow.models

    store = tracking.Store("invented", config.mlflow.tracking_uri, Path(config.mlflow.artifact_dir))
    versions = tracking.versions_of_run(store, run.info.run_id)
    assert set(versions) == {"lifetime-value", "payment-delay", "prospect-value", "grading"}
    client = tracking._client(config.mlflow.tracking_uri)
    for name in MODELS:
        place = client.get_model_version_download_uri(f"invented-{name}", versions[name].version)
        folder = Path(place.removeprefix("file://"))
        model = mlflow.models.Model.load(str(folder))
        assert len(model.signature.inputs.inputs) > 3
        assert len(model.signature.outputs.inputs) >= 2
        assert "example" in (folder / "input_example.json").read_text()


def test_no_customer_is_named_anywhere(run: Any, logged: dict[str, Path], config: Config) -> None:
    with duckdb.connect(config.warehouse.path, read_only=True) as connection:
        people = connection.execute("SELECT customer_id, name FROM company.customers").fetchall()
    names = {text for row in people for text in row if text and len(text) > 4}
    artefacts = Path(config.mlflow.artifact_dir).rglob("*")
    texts = [path.read_text() for path in artefacts if path.suffix in (".json", ".txt", ".yaml")]
    texts += [str(run.data.params), str(run.data.tags)]
    assert len(texts) > 10
    # Ids are digits: as words of their own, not within a number.
    any_name = "|".join(map(re.escape, names))
    found = re.findall(rf"(?<![\w.-])(?:{any_name})(?![\w.])", "\n".join(texts))
    assert not found
