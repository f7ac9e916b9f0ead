"""A company graded again month after month, as it would have been: how steady its tiers were, and what they held.

The grading is that of `score`, with models learned as `train` learns them at the first month and every so many after
it. What customers then did is read from all facts of the company. Nothing is published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import (
    composite,
    criteria,
    grades,
    ingest,
    learn,
    metrics,
    policies,
    snapshots,
    stability,
    tiers,
    truth,
    warehouse,
)
from clv.composite import Grading
from clv.contribution import Pricing, price_lines
from clv.criteria import Measured, Models
from clv.errors import ModelError
from clv.outcomes import realised_value
from clv.period import Horizon, add_months, see

if TYPE_CHECKING:
    from clv.config import Config
    from clv.grades import Graded
    from clv.warehouse import Engine

Floats = NDArray[np.float64]

# How months are graded beside the configured way. `raw`: by rank and gates alone, from nothing but the month itself;
# `no_gates`: with the band alone, so that what each of them costs can be told apart; `grace`: late payment and arrears
# wait for a second month; `confirmed`: moves by rank do.
_PLAIN = {"band_ratio": 0.0, "confirmation_runs": 1}
_OPEN = {
    "negative_contribution": False, "late_payment_probability": None, "overdue_balance_ratio": None,
    "bad_debt_months": None, "blocked": False,
}  # fmt: skip
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "configured": {},
    "raw": {"tiers": _PLAIN},
    "no_gates": {"gates": _OPEN},
    "grace": {"gates": {"month_of_grace": True}},
    "confirmed": {"tiers": {"confirmation_runs": 2}},
}
LOOK_BACK_MONTHS = 12
TOPS = {"top_1": 0.01, "top_20": 0.20}


@dataclass
class _Seen:
    """What the months showed so far; lists have an entry per month."""

    histories: dict[str, list[pd.DataFrame]] = field(default_factory=lambda: {name: [] for name in VARIANTS})
    customers: list[int] = field(default_factory=list)
    exact: list[bool] = field(default_factory=list)
    promised: list[pd.DataFrame] = field(default_factory=list)
    captured: list[dict[str, dict[str, float]]] = field(default_factory=list)
    oracle: list[dict[str, float]] = field(default_factory=list)
    key_held: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in VARIANTS})
    realised: list[pd.DataFrame] = field(default_factory=list)
    agreement: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in VARIANTS})


def backtest_tiers(
    config: Config,
    first: date,
    horizon: Horizon,
    *,
    months: int,
    retrain_months: int,
    progress: Callable[[str], Any] = lambda _: None,
) -> dict[str, Any]:
    """Figures of `months` months from `first` on, graded in a row; see docs/method.md, "Stability and proof".

    `retrain_months`: models and scales are learned again after so many. Raises ModelError where the data ends before
    the second month. What a part needs and the data does not have is null.
    """
    days = [add_months(first, i) for i in range(months + 1)]
    seen = _Seen()
    with warehouse.workspace_of(config) as db, warehouse.workspace_of(config) as future:
        ingest.load(future, config, add_months(days[-1], 60))
        price_lines(future, config)
        [(last,)] = future.rows("SELECT max(order_date) FROM main.order_lines")
        days = [day for day in days if last is not None and day <= add_months(last, 1)]
        if len(days) < 2:
            raise ModelError(f"Orders are known until {last}: no two months from {first} on can be graded.")
        past: dict[str, list[pd.DataFrame]] = {name: [] for name in VARIANTS}
        for i, day in enumerate(days):
            progress(f"{config.company}: {day}")
            ingest.load(db, config, day)
            pricing = price_lines(db, config)
            if i % retrain_months == 0:
                models, grading = learned(db, day, config, pricing)
            measured = criteria.measure(db, day, config, pricing, models)
            overrides = grades.overrides_valid(db, day)
            graded = {
                name: grades.grade_customers(
                    measured,
                    grading,
                    variant,
                    past[name][0] if past[name] else grades.NOBODY,
                    overrides,
                    policy_reset=False,
                    earlier=_months(past[name]),
                )
                for name, variant in _variants(config).items()
            }
            _note_month(seen, i, graded, past["configured"])
            if last is not None and horizon.after(day) <= add_months(last, 1):
                _note_outcome(seen, future, day, horizon, config, pricing, measured, grading, graded)
            _note_truth(seen, db, day, config, measured, grading, graded)
            for name, found in graded.items():
                past[name] = [_as_published(found), *past[name][: LOOK_BACK_MONTHS - 1]]
    return _report(seen, config, days, horizon, retrain_months)


def _months(past: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of `earlier` in grades.grade_customers, the newest month first."""
    rows = [frame[["customer_id", "policy_tier"]].assign(month=i + 1) for i, frame in enumerate(past)]
    return pd.concat(rows, ignore_index=True) if rows else grades.NO_MONTHS


def learned(db: Engine, day: date, config: Config, pricing: Pricing) -> tuple[Models, Grading]:
    """Models of customers and their scales, as training learns them from the facts before `day`."""
    value, present = learn.learn_lifetime_value(
        db, day, config, basis=pricing.basis, horizon=learn.horizon_of(config)
    )
    payment = learn.learn_payment_delay(db, day, config, present.loc[present["is_active"], "customer_id"])
    models = Models(value.model, payment.model if payment else None, None)
    measured = criteria.measure(db, day, config, pricing, models)
    grading = grades.fit_grading(measured, day, config.composite.scale)
    return models, snapshots.learn(db, day, config, pricing, models, grading)


def _variants(config: Config) -> dict[str, Config]:
    return {
        name: config.model_copy(
            update={
                section: getattr(config, section).model_copy(update=dict(values))
                for section, values in changed.items()
            }
        )
        for name, changed in VARIANTS.items()
    }


def _as_published(graded: Graded) -> pd.DataFrame:
    """What the month after reads of a month."""
    names = [
        "customer_id",
        "value_source",
        "tier",
        "previous_tier",
        "policy_tier",
        "tier_rule",
        "firmness_ratio",
    ]
    return graded.frame[names]


def _active(graded: Graded) -> pd.DataFrame:
    return graded.frame[graded.frame["is_active"].to_numpy(bool)]


def _levels(graded: Graded) -> NDArray[np.int64]:
    return np.asarray(pd.Index(graded.order).get_indexer(_active(graded)["tier"]), dtype=np.int64)


def _note_month(seen: _Seen, month: int, graded: Mapping[str, Graded], past: Sequence[pd.DataFrame]) -> None:
    for name, found in graded.items():
        rows = _active(found)[["customer_id", "tier_rule"]].assign(month=month, tier=_levels(found))
        seen.histories[name].append(rows)
    configured = graded["configured"]
    active = _active(configured)
    seen.customers.append(len(active))
    sizes = active["tier"].value_counts()
    seen.exact.append(
        all(int(sizes.get(tier, 0)) == count for (_, tier), count in configured.expected_counts.items())
    )
    if past:
        both = past[0].merge(active[["customer_id", "tier"]], on="customer_id", suffixes=("", "_now"))
        seen.promised.append(
            pd.DataFrame(
                {"promised": both["firmness_ratio"], "stayed": both["tier"] == both["tier_now"]}
            ).astype("float64")
        )


def _note_outcome(
    seen: _Seen,
    future: Engine,
    day: date,
    horizon: Horizon,
    config: Config,
    pricing: Pricing,
    measured: Measured,
    grading: Grading,
    graded: Mapping[str, Graded],
) -> None:
    """What the active customers of `day` then brought, by tier and by every ranking."""
    frame = _active(graded["configured"])
    outcome = realised_value(future, day, horizon, config, basis=pricing.basis).set_index("customer_id")
    realised = frame["customer_id"].map(outcome["realised_contribution"]).to_numpy(np.float64, na_value=0.0)
    realised = np.nan_to_num(realised)
    rankings = rankings_of(measured, grading, config)
    rankings["tier_then_score"] = -1000.0 * _levels(graded["configured"]) + frame["composite_score"].to_numpy(
        np.float64
    )
    seen.captured.append(
        {
            name: {top: metrics.captured_share(realised, ranking, share) for top, share in TOPS.items()}
            for name, ranking in rankings.items()
        }
    )
    seen.oracle.append(
        {top: metrics.captured_share(realised, realised, share) for top, share in TOPS.items()}
    )
    for name, found in graded.items():
        seen.key_held[name].append(stability.held(realised, _levels(found) < len(config.tiers.key)))
    seen.realised.append(
        pd.DataFrame(
            {
                "customer_id": frame["customer_id"].to_numpy(),
                "tier": _levels(graded["configured"]),
                "realised": realised,
            }
        )
    )


def rankings_of(measured: Measured, grading: Grading, config: Config) -> dict[str, Floats]:
    """Name -> a figure of every active customer, by which it may be ranked: the scales side by side, and simpler ones.

    `composite` as configured; `scale_…` the same weights on scores by log-z, −log(1 − percentile), averaged
    percentiles and min-max; `economic` the money figure; `value` the lifetime value alone; `last_period`, `revenue`
    of the last 12 months; `rfm`.
    """
    active = measured.customers["is_active"].to_numpy(bool)
    frame, values = measured.customers[active], measured.values[active]
    weights = {name: weight for name, weight in config.weights.items() if weight > 0}
    weighed = [name for name in measured.switched_on if name in weights]

    def composed(scores: pd.DataFrame) -> Floats:
        middles = dict.fromkeys(scores.columns, 50.0)
        found = composite.compose(scores, weights, list(scores.columns), middles, 0.0)["composite_score"]
        return np.asarray(np.nan_to_num(found.to_numpy(np.float64), nan=-1.0), dtype=np.float64)

    rankings = {"composite": composed(grading.score(values[weighed]))}
    kinds = {name: measured.kinds[name] for name in weighed}
    for method in ("log_z", "log_percentile"):
        scale = composite.fit(
            values,
            kinds,
            {},
            trained_as_of=grading.trained_as_of,
            method=method,
            directions=measured.directions,
        )
        rankings[f"scale_{method}"] = composed(scale.score(values[weighed]))
    oriented = values[weighed] * [measured.directions.get(n, -1 if n == "payment" else 1) for n in weighed]
    rankings["scale_percentile"] = composed(100 * oriented.rank(pct=True))
    span = (oriented.max() - oriented.min()).replace(0, 1)
    rankings["scale_min_max"] = composed(100 * (oriented - oriented.min()) / span)
    costs = criteria.expected_costs(
        frame, measured.payment_rows, config, learn.horizon_of(config).length_days(grading.trained_as_of)
    ) if len(measured.payment_rows) else None  # fmt: skip
    value = values["lifetime_value"].to_numpy(np.float64)
    rankings["economic"] = value - (0.0 if costs is None else costs.sum(axis=1).to_numpy(np.float64))
    rankings["value"] = value
    rankings["last_period"] = frame["value_365"].to_numpy(np.float64)
    rankings["revenue"] = frame["revenue_365"].to_numpy(np.float64)
    rankings["rfm"] = stability.rfm(frame)
    return rankings


def _note_truth(
    seen: _Seen,
    db: Engine,
    day: date,
    config: Config,
    measured: Measured,
    grading: Grading,
    graded: Mapping[str, Graded],
) -> None:
    """Who is in the tier that true expectations would give: value and late payment without their noise."""
    try:
        known = truth.read(db, config, day).customers.set_index("customer_id")
    except ModelError:
        return
    see(db, day)
    true_value = {
        "contribution": "expected_contribution_12m",
        "revenue": "expected_net_revenue_12m",
    }["contribution" if "contribution" not in measured.off else "revenue"]
    active = measured.customers["is_active"].to_numpy(bool)
    ids = measured.customers["customer_id"]
    values = measured.values.copy()
    values["lifetime_value"] = ids.map(known[true_value]).to_numpy(np.float64, na_value=np.nan)
    if "payment" in measured.switched_on:
        true_late = ids.map(known["late_payment_probability"]).to_numpy(np.float64, na_value=np.nan)
        values["payment"] = np.where(values["payment"].isna(), np.nan, true_late)
    names = measured.switched_on
    kinds = {name: measured.kinds[name] for name in names}
    if "payment" in kinds:
        kinds["payment"] = "payment"
    scale = composite.fit(values[active], kinds, {}, trained_as_of=day, directions=measured.directions)
    scores = scale.score(values[active][names])
    composed = composite.compose(scores, config.weights, names, scale.baselines, 0.0)
    nobody = pd.Series(None, index=composed.index, dtype="str")
    frame = _active(graded["configured"]).assign(
        composite_score=composed["composite_score"],
        previous_tier=nobody,
        previous_rule=nobody,
        earlier_tier=nobody,
    )
    # Gates as the true probability of late payment shuts them; the other gates read facts, which have no noise.
    late = ids[active].map(known["late_payment_probability"]).to_numpy(np.float64, na_value=np.nan)
    frame["gate"] = tiers.gates(frame.assign(late_payment_probability=late), config.gates)
    frame = frame.drop(columns=["tier", "policy_tier", "tier_rule", "composite_rank", "composite_percentile",
                                "tier_edge_score"])  # fmt: skip
    noise_free = tiers.assign(frame, policies.cut_of(frame, config.tiers), config.tiers.key, 0.0)["tier"]
    has_truth = frame["customer_id"].isin(known.index).to_numpy(bool)
    for name, found in graded.items():
        agrees = (_active(found)["tier"] == noise_free).to_numpy(bool)[has_truth]
        if len(agrees):
            seen.agreement[name].append(float(agrees.mean()))


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def _edges_crossed(moved: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """Between which tiers each move went, the higher one first, whichever way."""
    both = moved[["before", "tier"]].to_numpy(np.int64)
    labels = np.array(names, dtype=object)
    return pd.Series(
        labels[both.min(axis=1)] + " – " + labels[both.max(axis=1)], index=moved.index, dtype="str"
    )


def _report(
    seen: _Seen, config: Config, days: Sequence[date], horizon: Horizon, retrain_months: int
) -> dict[str, Any]:
    steady = {}
    for name, rows in seen.histories.items():
        found = stability.steadiness(pd.concat(rows, ignore_index=True))
        steady[name] = {
            "moves_ratio": found.moves_ratio,
            "reversals_ratio": found.reversals_ratio,
            "ranking_reversals_ratio": found.ranking_reversals_ratio,
            "key_held_ratio": _mean(seen.key_held[name]),
            "agreement_with_truth_ratio": _mean(seen.agreement[name]),
        }
    moved = stability.moves(pd.concat(seen.histories["configured"], ignore_index=True))
    captured, by_tier, firm = None, None, None
    if seen.captured:
        captured = {
            name: {top: _mean([month[name][top] for month in seen.captured]) for top in TOPS}
            for name in seen.captured[0]
        } | {"oracle": {top: _mean([month[top] for month in seen.oracle]) for top in TOPS}}
        rows = pd.concat(seen.realised, ignore_index=True)
        by_tier = stability.value_by_tier(
            rows["customer_id"],
            rows["tier"].to_numpy(np.int64),
            rows["realised"].to_numpy(np.float64),
            config.tiers.names,
            config.seed,
        )
    if seen.promised:
        pairs = pd.concat(seen.promised, ignore_index=True)
        firm = stability.firmness_report(
            pairs["promised"].to_numpy(np.float64), pairs["stayed"].to_numpy(np.float64)
        )
    return {
        "as_of": str(days[0]),
        "through": str(days[-1]),
        "horizon_days": horizon.length_days(days[0]),
        "months": len(days),
        "retrain_months": retrain_months,
        "customers": _mean([float(count) for count in seen.customers]),
        "counts_exact": all(seen.exact),
        "origins_with_outcome": len(seen.captured),
        "months_with_truth": len(seen.agreement["configured"]),
        "stability": steady,
        "moves_by_rule": stability.moves_by(moved, moved["rule"]),
        "moves_by_edge": stability.moves_by(moved, _edges_crossed(moved, config.tiers.names)),
        "moves_by_month": stability.moves_by(moved, moved["month"].map(dict(enumerate(map(str, days))))),
        "captured": captured,
        "value_by_tier": by_tier,
        "is_monotone": stability.is_monotone(by_tier) if by_tier else None,
        "firmness": firm,
    }
