"""What was measured -> scores, composite, tiers: one row per customer and prospect, and the month's summaries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import composite, metrics, tiers
from clv.composite import Grading
from clv.criteria import CUSTOMER_CRITERIA, PROSPECT_BASELINE, Measured
from clv.features import segment_of
from clv.models.prospect_value import combine
from clv.tables import PUBLISHED

if TYPE_CHECKING:
    from clv.config import Config
    from clv.models.lifetime_value import LifetimeValue
    from clv.warehouse import Engine

Floats = NDArray[np.float64]
INACTIVE = "inactive"


@dataclass(frozen=True)
class Graded:
    """Customers or prospects with their grade.

    `frame`: columns of the table `grades`, and what the summaries need; `scores` and `weights`: a column per
    criterion, the same rows; `expected_counts`: (value_source, tier) -> how many it holds by policy, empty where
    thresholds rule, or gates and overrides leave the policy no choice.
    """

    frame: pd.DataFrame
    values: pd.DataFrame
    scores: pd.DataFrame
    weights: pd.DataFrame
    order: tuple[str, ...]
    key: tuple[str, ...]
    expected_counts: Mapping[tuple[str, str], int]

    @property
    def are_customers(self) -> bool:
        return INACTIVE in self.order


def overrides_valid(db: Engine, as_of: date) -> pd.DataFrame:
    """Tiers set by hand that hold on `as_of`: customer_id, tier; of each customer the newest decision first.

    The schema `past` must show `as_of`.
    """
    return db.frame(f"""
        SELECT customer_id, tier FROM past.overrides WHERE valid_until >= DATE '{as_of}'
        ORDER BY customer_id, decided_date DESC, valid_until DESC, decided_by, tier
    """)


def fit_grading(measured: Measured, as_of: date) -> Grading:
    """Scales of all criteria, learned over the active customers (prospects: over all of them)."""
    active = measured.customers["is_active"].to_numpy(bool)
    values = {name: measured.values[name].to_numpy(np.float64)[active] for name in measured.switched_on}
    if "prospect" in measured.kinds:
        values["prospect"] = measured.prospect_values["prospect"].to_numpy(np.float64)
    kinds = {name: kind for name, kind in measured.kinds.items() if name in values}
    return composite.fit(values, kinds, measured.references, trained_as_of=as_of)


def grade_customers(
    measured: Measured,
    grading: Grading,
    config: Config,
    previous: pd.DataFrame,
    overrides: pd.DataFrame,
    *,
    policy_reset: bool,
) -> Graded:
    """Every customer with history: composite over what was measured, tier among the active ones.

    `previous`: the grades of the month before (empty for the first); with `policy_reset` its tiers do not bind.
    `overrides`: see `overrides_valid`. Lapsed customers are `inactive`, whatever was decided about them.
    """
    settings = config.tiers
    customers = measured.customers
    values = measured.values.reindex(columns=list(CUSTOMER_CRITERIA))
    scores = grading.score(values[measured.switched_on]).reindex(columns=list(CUSTOMER_CRITERIA))
    composed = composite.compose(
        scores[measured.switched_on],
        config.composite.weights,
        measured.switched_on,
        grading.baselines,
        config.composite.minimum_coverage_ratio,
    )
    before = _previous(previous, "history")
    frame = customers.assign(
        **{name: composed[name] for name in _COMPOSED},
        gate=tiers.gates(customers, config.gates),
        tie_break=_tie_break(customers),
        previous_tier=_text(customers["customer_id"].map(before)),
        override_tier=_overridden(customers, overrides, settings.shares_ratio),
        value_source="history",
    )
    active = frame["is_active"].to_numpy(bool)
    assigned = tiers.assign(
        frame.loc[active], settings.shares_ratio, settings.key, settings.band_ratio, policy_reset=policy_reset
    )
    frame = frame.join(assigned[list(_ASSIGNED)])
    frame["tier"] = frame["tier"].where(active, INACTIVE)
    frame["tier_rule"] = frame["tier_rule"].where(active, "inactive")
    order = (*settings.shares_ratio, INACTIVE)
    frame["tier_change"] = tiers.tier_change(frame["tier"], frame["previous_tier"], order)
    weights = pd.DataFrame(
        {name: composed.get(f"weight_{name}", 0.0) for name in CUSTOMER_CRITERIA},
        index=frame.index,
    )
    expected = _expected_counts(frame.loc[active], settings.shares_ratio, settings.key)
    return Graded(frame, values, scores, weights, order, tuple(settings.key), expected)


def grade_prospects(
    measured: Measured,
    grading: Grading,
    config: Config,
    previous: pd.DataFrame,
    overrides: pd.DataFrame,
    as_of: date,
    *,
    policy_reset: bool,
) -> Graded:
    """Every prospect in a pyramid of their own: the model's score and, where there is one, sales' judgement.

    A prospect with neither has no score: provisional, and ranked last.
    """
    settings = config.tiers
    prospects = measured.prospects
    if "prospect" in grading.scales:
        model = grading.scales["prospect"].score(prospects["prospect_value"].to_numpy(np.float64))
        baseline = grading.scales["prospect"].baseline
    else:
        model, baseline = np.full(len(prospects), np.nan), PROSPECT_BASELINE
    judgement = prospects["judgement"].to_numpy(np.float64, na_value=np.nan)
    combined = combine(model, judgement, config.prospect.judgement_weight_ratio)
    score = np.where(np.isnan(model), judgement, combined)
    measured_score = np.isfinite(score)
    before = _previous(previous, "prospect")
    frame = prospects.assign(
        composite_score=score,
        composite_baseline=np.where(measured_score, baseline, np.nan),
        coverage_ratio=measured_score.astype(np.float64),
        is_provisional=~measured_score,
        gate=None,
        tie_break=prospects["prospect_value"],
        previous_tier=_text(prospects["customer_id"].map(before)),
        override_tier=_overridden(prospects, overrides, settings.prospect_shares_ratio),
        value_source="prospect",
        prospect_valid_until=as_of + timedelta(days=config.prospect.valid_days),
        segment=segment_of(prospects, config.segment),
    )
    assigned = tiers.assign(
        frame,
        settings.prospect_shares_ratio,
        settings.prospect_key,
        settings.band_ratio,
        policy_reset=policy_reset,
    )
    frame = frame.join(assigned[list(_ASSIGNED)])
    order = tuple(settings.prospect_shares_ratio)
    frame["tier_change"] = tiers.tier_change(frame["tier"], frame["previous_tier"], order)
    scores = pd.DataFrame({"prospect": score}, index=frame.index)
    weights = pd.DataFrame({"prospect": measured_score.astype(np.float64)}, index=frame.index)
    expected = _expected_counts(frame, settings.prospect_shares_ratio, settings.prospect_key)
    return Graded(
        frame, measured.prospect_values, scores, weights, order, tuple(settings.prospect_key), expected
    )


_COMPOSED = ("composite_score", "composite_baseline", "coverage_ratio", "is_provisional")
_ASSIGNED = ("composite_rank", "composite_percentile", "policy_tier", "tier", "tier_rule", "tier_edge_score")


def grades_table(graded: Graded, versions: Mapping[str, str], basis: str) -> pd.DataFrame:
    """Rows of the table `grades`, with the versions of the models that spoke."""
    frame = graded.frame.assign(grading_version=versions.get("grading"))
    if graded.are_customers:
        margin, revenue = frame["contribution_margin"], frame["revenue"]
        frame["contribution_margin_ratio"] = (margin / revenue.where(revenue > 0)).astype("float64")
        frame["value_basis"] = basis
        frame["lifetime_value_version"] = versions.get("lifetime-value")
        frame["payment_delay_version"] = versions.get("payment-delay")
    else:
        frame["prospect_value_version"] = versions.get("prospect-value")
    names = [name for name in PUBLISHED["grades"].names if name in frame.columns]
    return frame[names]


def criteria_table(graded: Graded, measured: Measured) -> pd.DataFrame:
    """Rows of the table `criteria`: every standard of everyone, measured or not, with the reason."""
    frame = graded.frame
    counted = np.isfinite(frame["composite_rank"].to_numpy(np.float64, na_value=np.nan))
    tables = []
    for name in graded.scores.columns:
        score = graded.scores[name].to_numpy(np.float64)
        value = graded.values[name].to_numpy(np.float64)
        among = np.sort(score[counted & np.isfinite(score)])
        percentile = np.searchsorted(among, score) / len(among) if len(among) else np.full(len(score), np.nan)
        missing = measured.off.get(name) or _WHY_MISSING[name]
        why = np.full(len(score), missing, dtype=object)
        why[np.isfinite(score)] = measured.fallback.get(name)
        why[np.isfinite(score) & np.isnan(value)] = "judged by sales alone"
        tables.append(
            pd.DataFrame(
                {
                    "customer_id": frame["customer_id"],
                    "criterion": name,
                    "value": value,
                    "score": score,
                    "percentile": np.where(np.isfinite(score), percentile, np.nan),
                    "weight": graded.weights[name],
                    "why": why,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


_WHY_MISSING = {
    "lifetime_value": "no purchase on record",
    "payment": "no invoice of the last 12 months and nothing open",
    "contribution": "nothing sold or served in the last 12 months",
    "order_amount": "no order in the window",
    "prospect": "neither a model nor a valid judgement",
}


def tier_summary(graded: Graded) -> pd.DataFrame:
    """Rows of the table `tier_summary`: what each tier holds; lapsed customers are outside the shares."""
    frame = graded.frame
    of_customers = graded.are_customers
    figures = pd.DataFrame(
        {
            "tier": frame["tier"],
            "customers": 1,
            "revenue": frame["revenue"] if of_customers else np.nan,
            "contribution_margin": frame["contribution_margin"] if of_customers else np.nan,
            "clv": frame["clv"] if of_customers else frame["prospect_value"],
        }
    )
    summed = figures.groupby("tier").sum(min_count=1).reindex(list(graded.order))
    summed["customers"] = summed["customers"].fillna(0).astype(int)
    known = summed.columns[summed.notna().any()]
    summed.loc[summed["customers"] == 0, known] = 0.0  # nobody holds nothing; null says that nothing is known
    counted = summed.drop(index=INACTIVE, errors="ignore")
    summed["share_of_customers_ratio"] = counted["customers"] / max(int(counted["customers"].sum()), 1)
    for name, share in (("revenue", "revenue"), ("contribution_margin", "contribution"), ("clv", "clv")):
        total = counted[name].sum()
        summed[f"share_of_{share}_ratio"] = counted[name] / total if total > 0 else np.nan
    summed = summed.reset_index(names="tier")
    summed["position"] = np.arange(1, len(summed) + 1)
    summed["is_key"] = summed["tier"].isin(graded.key)
    summed["value_source"] = "history" if of_customers else "prospect"
    return summed


def month_facts(
    graded: Graded, measured: Measured, unassigned: pd.DataFrame, value_model: LifetimeValue, config: Config
) -> pd.DataFrame:
    """Rows of the table `month_facts`: what holds for the month as a whole.

    `unassigned`: contribution.unassigned; `value_model`: the one that grades.
    """
    active = graded.frame["is_active"].to_numpy(bool)
    frame, scores = graded.frame.loc[active], graded.scores.loc[active, measured.switched_on]
    rows: list[tuple[str, float | None, str]] = [
        ("active_customers", float(active.sum()), "customers in the counts of the pyramid"),
        (
            "inactive_customers",
            float((~active).sum()),
            f"no order within {config.tiers.active_months} months and no open balance",
        ),
        ("prospects", float(len(measured.prospects)), "graded in a pyramid of their own"),
        *((name, None, policy) for name, policy in policies_of(config).items()),
        (
            "clv_level_constant",
            value_model.level,
            "by which the value model's total was moved to the mean of three forecasts",
        ),
    ]
    if len(unassigned):
        lines = int(unassigned["lines"].sum())
        detail = (
            f"net sales of 12 months on {lines:,} lines without a known customer: with the tiers, the ledger"
        )
        rows.append(("revenue_unassigned", float(unassigned["net_amount"].astype("float64").sum()), detail))
    total = frame["clv"].sum(min_count=1)
    if np.isfinite(total):
        rows.append(("clv_total", float(total), "expected value of all active customers"))
        clv, cost = (frame[name].to_numpy(np.float64) for name in ("clv", "expected_cost_to_serve"))
        interval = value_model.total_interval(clv, cost)
        if interval is not None:
            detail = "end of the 80 % interval of that total: chance of customers, and the level they share"
            rows += [
                ("clv_total_low", interval[0], f"lower {detail}"),
                ("clv_total_high", interval[1], f"upper {detail}"),
            ]
    for name, weight in composite.effective_weights(scores, config.composite.weights).items():
        if np.isfinite(weight):
            given = config.composite.weights.get(name, 0.0)
            rows.append(
                (
                    f"effective_weight_{name}",
                    weight,
                    f"share of the composite's spread; weight given {given:g}",
                )
            )
    weighted = [name for name in scores if config.composite.weights.get(name, 0) > 0]
    for one, other, correlation in composite.correlated_pairs(scores[weighted]):
        rows.append((f"correlation_{one}_{other}", correlation, "two weighted criteria say nearly the same"))
    measure = "contribution_margin" if measured.off.get("contribution") is None else "revenue"
    amounts = frame[measure].to_numpy(np.float64)
    if len(amounts):
        share = metrics.captured_share(amounts, amounts, 0.20)
        if np.isfinite(share):
            rows.append(
                ("concentration_top_20", share, f"share of the last 12 months' {measure} with the best 20 %")
            )
    return pd.DataFrame(rows, columns=["name", "value", "detail"])


def policies_of(config: Config) -> dict[str, str]:
    """What decides the tiers of customers, and of prospects, beside their scores: as text, by name in month_facts."""
    settings = config.tiers
    pyramids = {
        "tier_policy": (settings.shares_ratio, settings.key),
        "prospect_tier_policy": (settings.prospect_shares_ratio, settings.prospect_key),
    }
    return {
        name: json.dumps({"policy": settings.policy, "shares_ratio": shares, "key": key}, ensure_ascii=False)
        for name, (shares, key) in pyramids.items()
    }


def policy_resets(previous_policies: Mapping[str, str], config: Config) -> dict[str, bool]:
    """Name of each policy -> whether it has changed since the month before, so that last month's tiers do not bind."""
    return {
        name: previous_policies.get(name, policy) != policy for name, policy in policies_of(config).items()
    }


def _expected_counts(
    frame: pd.DataFrame, shares: Mapping[str, float], key: Sequence[str]
) -> dict[tuple[str, str], int]:
    """How many per tier, where the policy fixes it: not under 20, nor where decisions or gates leave no choice."""
    if len(frame) < tiers.THRESHOLDS_BELOW:
        return {}
    seats = tiers.counts(len(frame), shares)
    decided = frame["override_tier"].value_counts()
    barred = frame["gate"].notna() | frame["is_provisional"].astype(bool)
    free = int((~barred & frame["override_tier"].isna()).sum())
    if any(decided.get(tier, 0) > seats[tier] for tier in seats) or free < sum(seats[tier] for tier in key):
        return {}
    source = str(frame["value_source"].iloc[0])
    return {(source, tier): held for tier, held in seats.items()}


def _previous(previous: pd.DataFrame, value_source: str) -> pd.Series:
    """Last month's tier by customer_id, among those whom the same kind of model graded."""
    same = previous.loc[previous["value_source"] == value_source]
    return pd.Series(same["tier"].to_numpy(), index=same["customer_id"].to_numpy(), dtype="object")


def _overridden(customers: pd.DataFrame, overrides: pd.DataFrame, shares: Mapping[str, float]) -> pd.Series:
    """The tier set by hand for each of `customers`, or null: the newest decision for a tier of this pyramid."""
    ours = overrides.loc[overrides["tier"].isin(list(shares))].drop_duplicates("customer_id")
    return _text(customers["customer_id"].map(ours.set_index("customer_id")["tier"]))


def _tie_break(customers: pd.DataFrame) -> pd.Series:
    """Second key of the ranking: expected value, else contribution, else the order amount."""
    return customers["clv"].fillna(customers["contribution_margin"]).fillna(customers["order_amount"])


def _text(values: pd.Series) -> pd.Series:
    return values.astype("str")
