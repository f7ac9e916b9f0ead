"""What holds for a month as a whole: the rows of the table `month_facts`, each a figure with what it means."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from clv import composite, metrics, policies
from clv.criteria import Measured
from clv.edges import reaching
from clv.grades import Graded
from clv.pairwise import compare
from clv.quadrants import KINDS
from clv.tiers import GRACE

if TYPE_CHECKING:
    from clv.config import Config
    from clv.models.lifetime_value import LifetimeValue

Fact = tuple[str, float | None, str]

FIRMNESS_BINS = (0.0, 0.5, 0.8, 0.9, 0.95, 1.0)
NAMED = 10  # customers or decisions named in a detail


def month_facts(
    graded: Graded,
    measured: Measured,
    unassigned: pd.DataFrame,
    value_model: LifetimeValue,
    config: Config,
    *,
    previous: pd.DataFrame | None = None,
    overrides: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Rows of the table `month_facts`: name, value, detail.

    `unassigned`: contribution.unassigned; `value_model`: the one that grades; `previous`: the grades of the
    month before; `overrides`: grades.overrides_valid.
    """
    active = graded.frame["is_active"].to_numpy(bool)
    frame, scores = graded.frame.loc[active], graded.scores.loc[active, measured.switched_on]
    rows: list[Fact] = [
        ("active_customers", float(active.sum()), "customers in the counts of the tiers"),
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
        *_ledger(unassigned),
        *_weights(scores, config),
        *sense(frame, measured, config),
        *_kept_below_key(frame),
        *_quadrants(frame, config),
        *_reach(frame, config),
        *_potential(frame),
    ]
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
    if overrides is not None:
        rows += _decisions(frame, overrides)
    if previous is not None and len(previous):
        rows += [*_structure(frame, previous), *firmness_calibration(previous, graded.frame)]
    return pd.DataFrame(rows, columns=["name", "value", "detail"])


def policies_of(config: Config) -> dict[str, str]:
    """What decides the tiers of customers, and of prospects, beside their scores: as text, by name in month_facts."""
    settings = config.tiers
    of_policy: dict[str, dict[str, Any]] = {
        "pyramid": {"shares_ratio": settings.shares_ratio},
        "three_classes": {"shares_ratio": settings.shares_ratio},
        "value_shares": {"shares_ratio": settings.shares_ratio, "measure": settings.measure},
        "counts": {"counts": settings.counts, "basic": settings.basic},
        "thresholds": {
            "thresholds": settings.thresholds, "basic": settings.basic, "measure": settings.measure,
        },
    }  # fmt: skip
    policies = {
        "tier_policy": {"policy": settings.policy, **of_policy[settings.policy], "key": settings.key},
        "prospect_tier_policy": {
            "policy": "pyramid",
            "shares_ratio": settings.prospect_shares_ratio,
            "key": settings.prospect_key,
        },
    }
    return {name: json.dumps(policy, ensure_ascii=False) for name, policy in policies.items()}


def policy_resets(previous_policies: Mapping[str, str], config: Config) -> dict[str, bool]:
    """Name of each policy -> whether it has changed since the month before, so that last month's tiers do not bind."""
    return {
        name: previous_policies.get(name, policy) != policy for name, policy in policies_of(config).items()
    }


def sense(frame: pd.DataFrame, measured: Measured, config: Config) -> Iterator[Fact]:
    """Does tiering make sense here? Three tests of the active customers, each with its figure and its verdict.

    Enough customers that nobody knows them all; enough of them come back; and few of them hold most of the last 12
    months' contribution (revenue where no margin is known). `tiering_tests_passed` counts them, 0 to 3.
    """
    limits = config.sense
    basis = "contribution_margin" if measured.off.get("contribution") is None else "revenue"
    amounts = frame[basis].to_numpy(np.float64)
    orders = frame["order_count"] if "order_count" in frame else frame["order_amount"] * math.nan
    known = orders.notna()
    repeat = float((orders[known] >= 2).mean()) if known.any() else math.nan
    top = metrics.captured_share(amounts, amounts, 0.20) if len(amounts) else math.nan
    gini = lorenz_gini(amounts)
    tests = [
        (
            "tiering_number_of_customers",
            float(len(frame)),
            len(frame) > limits.manageable_customers,
            f"customers, more than the {limits.manageable_customers:,} one can know by name"
            if len(frame) > limits.manageable_customers
            else f"customers: the {limits.manageable_customers:,} one can know by name need no tiers",
        ),
        (
            "tiering_repeat_business",
            repeat,
            repeat >= limits.repeat_share_ratio,
            f"of the customers ordered on two days or more, {limits.repeat_share_ratio:.0%} needed",
        ),
        (
            "tiering_concentration",
            top,
            top >= limits.top_20_share_ratio,
            f"of the last 12 months' {basis} with the best 20 %, {limits.top_20_share_ratio:.0%} needed",
        ),
    ]
    passed = sum(bool(held) for _, _, held, _ in tests)
    for name, figure, held, what in tests:
        yield name, _number(figure), f"{'yes' if held else 'no'}: {what}"
    verdict = ("tiers say little here", "tiers say little here", "tiers help, with care", "tiers make sense")
    yield "tiering_tests_passed", float(passed), f"of 3: {verdict[passed]}"
    yield "concentration_top_20", _number(top), f"share of the last 12 months' {basis} with the best 20 %"
    yield (
        "concentration_gini",
        _number(gini),
        f"Gini coefficient of the last 12 months' {basis}; above 1 with losses",
    )


def lorenz_gini(amounts: metrics.Floats) -> float:
    """Gini coefficient of amounts (Gini, 1912): 0 where all hold the same, 1 where one holds all; nan without a sum.

    G = Σ x·(n + 1 − 2·rank) ÷ (n·Σ x), rank 1 = highest. Losses count, so it may exceed 1.
    """
    ranked = np.sort(amounts[np.isfinite(amounts)])[::-1]
    n, total = len(ranked), math.fsum(ranked.tolist())
    if n == 0 or total <= 0:
        return math.nan
    return math.fsum((ranked * (n + 1 - 2 * np.arange(1, n + 1))).tolist()) / (n * total)


def firmness_calibration(previous: pd.DataFrame, current: pd.DataFrame) -> Iterator[Fact]:
    """What last month's firmness promised, against who stayed: per bin of the promise the share that did.

    Over customers active in both months. Value: the share that stayed; detail: what was promised, and of how many.
    """
    columns = ["customer_id", "tier", "firmness_ratio"]
    before = previous.loc[previous["value_source"] == "history", columns]
    now = current[["customer_id", "tier", "is_active"]]
    both = before.merge(now, on="customer_id", suffixes=("", "_now"))
    both = both[both["is_active"].astype(bool) & both["firmness_ratio"].notna()]
    if both.empty:
        return
    stayed = (both["tier"] == both["tier_now"]).to_numpy(np.float64)
    promised = both["firmness_ratio"].to_numpy(np.float64)
    for low, high in pairwise(FIRMNESS_BINS):
        chosen = (promised >= low) & ((promised < high) | (high == 1.0))
        if chosen.any():
            detail = (
                f"stayed; promised {promised[chosen].mean():.3f} last month, {int(chosen.sum()):,} customers"
            )
            yield f"firmness_{low:.2f}_to_{high:.2f}", float(stayed[chosen].mean()), detail
    yield (
        "firmness_all",
        float(stayed.mean()),
        f"stayed; promised {promised.mean():.3f} last month, {len(both):,} customers",
    )


def _ledger(unassigned: pd.DataFrame) -> Iterator[Fact]:
    if len(unassigned):
        lines = int(unassigned["lines"].sum())
        detail = (
            f"net sales of 12 months on {lines:,} lines without a known customer: with the tiers, the ledger"
        )
        yield "revenue_unassigned", float(unassigned["net_amount"].astype("float64").sum()), detail


def _weights(scores: pd.DataFrame, config: Config) -> Iterator[Fact]:
    given = config.weights
    for name, weight in composite.effective_weights(scores, given).items():
        if np.isfinite(weight):
            detail = f"share of the composite's spread; weight given {given.get(name, 0.0):g}"
            yield f"effective_weight_{name}", weight, detail
    weighted = [name for name in scores if given.get(name, 0) > 0]
    for one, other, correlation in composite.correlated_pairs(scores[weighted]):
        yield f"correlation_{one}_{other}", correlation, "two weighted criteria say nearly the same"
    if config.composite.pairwise:
        judges = len(config.composite.pairwise)
        ratio = compare(config.composite.pairwise).consistency_ratio
        yield "weights_consistency_ratio", ratio, f"of {judges} judges together; below 0.10 is consistent"


def _kept_below_key(frame: pd.DataFrame) -> Iterator[Fact]:
    """Who would be in a higher tier but for a gate: how many by each."""
    rule = frame["tier_rule"].astype(str)
    for name, count in rule[rule.str.startswith("gate:")].value_counts().sort_index().items():
        yield f"kept_below_key_{str(name)[5:]}", float(count), "customers whom this gate keeps below key"
    for name, count in rule[rule.str.startswith(GRACE)].value_counts().sort_index().items():
        reason = str(name).removeprefix(GRACE)
        yield (
            f"in_grace_{reason}",
            float(count),
            "key customers who leave key next month unless this goes away",
        )


def _quadrants(frame: pd.DataFrame, config: Config) -> Iterator[Fact]:
    names = dict(zip(KINDS, config.quadrants.names, strict=True))
    for kind, name in names.items():
        members = frame[(frame["quadrant"] == name).to_numpy(bool)]
        called = ""
        if kind.endswith("_disloyal") and len(members):
            first = members.sort_values(["composite_rank"])["customer_id"].head(NAMED)
            called = f"; first {', '.join(first)}"
        money = members["contribution_margin"].sum() or members["order_amount"].sum()
        yield f"quadrant_{kind}", float(len(members)), f"{name}: {money:,.0f} in the last 12 months{called}"


def _reach(frame: pd.DataFrame, config: Config) -> Iterator[Fact]:
    """From which figure each tier is reached from below, as the month stands (edges.reaching)."""
    cut = policies.cut_of(frame, config.tiers)
    for tier, figure in reaching(frame, cut, config.tiers.band_ratio).items():
        if np.isfinite(figure):
            yield (
                f"reach_{tier}",
                float(figure),
                f"{cut.measure} from which a customer of a lower tier reaches it",
            )


def _potential(frame: pd.DataFrame) -> Iterator[Fact]:
    """How many of each tier below key have upgrade potential; nothing where it was not asked for."""
    if "has_upgrade_potential" not in frame:
        return
    known = frame[frame["has_upgrade_potential"].notna().to_numpy(bool)]
    for tier, members in known.groupby("tier"):
        has = int(members["has_upgrade_potential"].sum())
        detail = f"share with upgrade potential: {has:,} of {len(members):,} customers"
        yield f"upgrade_potential_{tier}", has / len(members), detail


def _decisions(frame: pd.DataFrame, overrides: pd.DataFrame) -> Iterator[Fact]:
    """Tiers that people have set: how many customers', and of each, prospects too, by whom, until when and why."""
    newest = overrides.drop_duplicates(["customer_id", "tier"])
    for row in newest.to_dict("records"):
        decision = {
            "by": row["decided_by"],
            "until": f"{row['valid_until']:%Y-%m-%d}",
            "reason": row["reason"],
        }
        yield override_name(row["customer_id"], row["tier"]), None, json.dumps(decision, ensure_ascii=False)
    decided = frame.loc[frame["override_tier"].notna(), ["customer_id", "override_tier"]]
    if decided.empty:
        return
    found = decided.merge(newest, left_on=["customer_id", "override_tier"], right_on=["customer_id", "tier"])
    said = [
        f"{row['customer_id']} {row['tier']} until {row['valid_until']:%Y-%m-%d} by {row['decided_by']}: "
        f"{row['reason']}"
        for row in found.head(NAMED).to_dict("records")
    ]
    yield "overrides_in_force", float(len(decided)), "; ".join(said)


def override_name(customer_id: str, tier: str) -> str:
    """Under which name the decision about a customer's tier stands in month_facts."""
    return f"override:{customer_id}:{tier}"


def _structure(frame: pd.DataFrame, previous: pd.DataFrame) -> Iterator[Fact]:
    """Customers whose account group is another one than last month: their group's tier is not comparable."""
    if "account_group_id" not in frame:
        return
    before = previous.set_index("customer_id")["account_group_id"]
    known = frame[frame["customer_id"].isin(before.index).to_numpy(bool)]
    then = known["customer_id"].map(before).fillna("")
    moved = known.loc[(then != known["account_group_id"].fillna("")).to_numpy(bool), "customer_id"]
    if len(moved):
        first = ", ".join(moved.sort_values().head(NAMED))
        yield (
            "structure_changes",
            float(len(moved)),
            f"customers in another account group than last month, so group tiers moved with the structure: {first}",
        )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
