"""What would take a customer to the next tier: rows of the table `paths`, one per customer and lever that can do it.

The smallest whole amount of a lever (`levers`) with which the customer, measured and scored again, reaches the edge of
the next tier as it stands (`edges`), if others stay as they are, and never more than the 95 % point of what that tier's
members do. Where no lever does, nothing is said. Who would be there but for a gate is told what opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import policies, scenario
from clv.changes import Speaking
from clv.criteria import measure
from clv.edges import positions, reaching_each
from clv.explain.words import Words, fill
from clv.grades import Graded, composites
from clv.levers import LEVERS, usual_orders
from clv.period import see
from clv.tiers import gates

if TYPE_CHECKING:
    from clv.config import Config
    from clv.contribution import Pricing
    from clv.criteria import Measured
    from clv.warehouse import Engine

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LARGEST = {"more_orders": 12, "faster_payment": 60, "better_margin": 30}
MEMBERS_QUANTILE = 0.95
# Whoever is further from the edge is taken there by no plausible amount: not searched.
REACH_POINTS = {"more_orders": 10.0, "faster_payment": 6.0, "better_margin": 7.0}
STEPS = 8  # parts into which a search divides what is left of its range
BLOCK_COPIES = 20_000  # customers measured at once
ARREARS_DAYS = 30  # of the gate `arrears`
GROWTH_RATIO = 1.25  # predicted over present value from which a customer has potential
COLUMNS = ("customer_id", "lever", "amount", "target_tier", "sentence")
NO_ROWS = pd.DataFrame(columns=list(COLUMNS))


@dataclass(frozen=True)
class Aims:
    """Who may rise, a row each: customer_id, `target`, `edge` (of the cut's measure), `is_key` (whether gates bar the
    target), `gate`, and the largest plausible amount of each lever (0: none)."""

    frame: pd.DataFrame
    measure: str


def paths(
    db: Engine,
    as_of: date,
    graded: Graded,
    measured: Measured,
    now: Speaking,
    config: Config,
    pricing: Pricing,
) -> pd.DataFrame:
    """Rows of `paths` for the customers of `graded`, by customer and lever; none where `explain.paths` is off.

    Leaves `past` showing `as_of`.
    """
    if not config.explain.paths:
        return NO_ROWS
    see(db, as_of)
    aims = aims_of(graded, config, pricing.basis)

    def reach(tried: pd.DataFrame) -> Flags:
        blocks = [tried.iloc[start : start + BLOCK_COPIES] for start in range(0, len(tried), BLOCK_COPIES)]
        return np.concatenate(
            [_reaches(db, as_of, block, aims.measure, now, config, pricing) for block in blocks]
        )

    reached = smallest_amounts(aims.frame, reach)
    see(db, as_of)
    sizes = usual_orders(db, as_of)
    opened = _opened(graded, measured, config, set(reached["customer_id"]))
    told = pd.concat([_told(reached, aims, sizes, config), opened], ignore_index=True)
    return told.sort_values(["customer_id", "lever"], ignore_index=True)[list(COLUMNS)]


def aims_of(graded: Graded, config: Config, basis: str) -> Aims:
    """Whose next tier may be within reach, and how far each lever may go; by customer_id."""
    frame = graded.frame[graded.frame["is_active"].to_numpy(bool)].reset_index(drop=True)
    cut = policies.cut_of(frame, config.tiers)
    names = cut.names
    level = positions(frame["tier"], names)
    target = np.maximum(level - 1, 0)
    figure = frame[cut.measure].to_numpy(np.float64, na_value=np.nan)
    edge = reaching_each(frame, cut, config.tiers.band_ratio, target)
    labels = np.array(names, dtype=object)
    is_key = np.isin(labels[target], list(graded.key))
    gate = frame["gate"].astype("object").where(frame["gate"].notna(), None)
    movable = frame["gate"].isna() | frame["gate"].isin(_OPENED_BY_LEVERS)
    chosen = (level > 0) & frame["override_tier"].isna().to_numpy(bool)
    chosen &= movable.to_numpy(bool) | ~is_key
    chosen &= (figure < edge) | (is_key & frame["gate"].notna().to_numpy(bool))
    chosen &= ~(frame["is_provisional"].to_numpy(bool) & (target == 0))
    bounds = _bounds(frame, level, target, basis)
    if cut.measure == "composite_score":
        bounds = {
            name: np.where(edge - figure <= REACH_POINTS[name], most, 0) for name, most in bounds.items()
        }
    found = pd.DataFrame(
        {
            "customer_id": frame["customer_id"],
            "target": labels[target],
            "edge": edge,
            "is_key": is_key,
            "gate": gate,
            **bounds,
        }
    )
    bounded = (found[list(LEVERS)] > 0).any(axis=1).to_numpy(bool)
    return Aims(found[chosen & bounded].sort_values("customer_id", ignore_index=True), cut.measure)


_OPENED_BY_LEVERS = ("negative_contribution", "late_payment")


def _bounds(
    frame: pd.DataFrame, level: NDArray[np.int64], target: NDArray[np.int64], basis: str
) -> dict[str, Floats]:
    """The largest plausible amount of each lever: what leads to the 95 % point of the target tier's members."""
    figures = {
        "more_orders": ("orders_90", 1.0, 1.0),
        "faster_payment": ("mean_days_beyond_terms", -1.0, 1.0),
        "better_margin": ("margin_ratio_365", 1.0, 100.0),
    }
    found = {}
    for lever, (name, sign, unit) in figures.items():
        own = frame[name].to_numpy(np.float64, na_value=np.nan) * sign
        best = np.full(len(frame), np.nan)
        for aim in np.unique(target):
            members = own[(level == aim) & np.isfinite(own)]
            if len(members):
                best[target == aim] = np.quantile(members, MEMBERS_QUANTILE)
        room = np.floor((best - own) * unit + 1e-9)
        found[lever] = np.clip(np.nan_to_num(room), 0, LARGEST[lever])
    if basis == "revenue":
        found["better_margin"] = np.zeros(len(frame))
    return found


def smallest_amounts(aims: pd.DataFrame, reach: Callable[[pd.DataFrame], Flags]) -> pd.DataFrame:
    """The smallest amount of each lever that reaches the edge: customer_id, lever, amount.

    `reach`: whether each row's `amount` of its `lever` does. The range between an amount that fails (at first none) and
    one that works (at first the largest) is divided into eight again and again, so that one less than what is found
    was tried, and fails.
    """
    open_ranges = aims.melt(
        ["customer_id", "edge", "is_key", "gate"], list(LEVERS), var_name="lever", value_name="works"
    )
    open_ranges = open_ranges[open_ranges["works"] > 0].assign(fails=0.0).reset_index(drop=True)
    if open_ranges.empty:
        return pd.DataFrame(columns=["customer_id", "lever", "amount"])
    open_ranges = open_ranges[reach(open_ranges.assign(amount=open_ranges["works"]))]
    done = []
    while len(open_ranges):
        narrow = (open_ranges["works"] - open_ranges["fails"] <= 1).to_numpy(bool)
        done.append(open_ranges[narrow])
        open_ranges = open_ranges[~narrow].reset_index(drop=True)
        if open_ranges.empty:
            break
        width = open_ranges["works"] - open_ranges["fails"]
        steps = pd.concat(
            [
                open_ranges.assign(
                    row=np.arange(len(width)), amount=open_ranges["fails"] + np.ceil(width * k / STEPS)
                )
                for k in range(1, STEPS)
            ]
        )
        steps = steps[steps["amount"] < steps["works"]].drop_duplicates(["row", "amount"])
        steps = steps.sort_values(["row", "amount"], ignore_index=True)
        ok = reach(steps)
        first = steps[ok].drop_duplicates("row").set_index("row")["amount"]
        works = (
            open_ranges["works"].to_numpy() if first.empty else first.reindex(range(len(width))).to_numpy()
        )
        works = np.where(np.isnan(works), open_ranges["works"], works)
        below = steps[steps["amount"].to_numpy() < works[steps["row"].to_numpy()]]
        fails = below.groupby("row")["amount"].max().reindex(range(len(width))).to_numpy()
        fails = np.where(np.isnan(fails), open_ranges["fails"], fails)
        open_ranges = open_ranges.assign(works=works, fails=fails)
    if not done:
        return pd.DataFrame(columns=["customer_id", "lever", "amount"])
    return pd.concat(done).rename(columns={"works": "amount"})[["customer_id", "lever", "amount"]]


def _reaches(
    db: Engine,
    as_of: date,
    tried: pd.DataFrame,
    measure_name: str,
    now: Speaking,
    config: Config,
    pricing: Pricing,
) -> Flags:
    """Whether each row's `amount` of its `lever` takes the customer to its `edge`, past the gates where they bar."""
    copy = tried["lever"] + ":" + tried["amount"].astype(int).astype(str)
    copies = tried[["customer_id", "lever", "amount"]].assign(copy=copy).reset_index(drop=True)
    with scenario.facts_of(db, copies):
        for lever in sorted(set(copies["lever"])):
            LEVERS[lever](db, as_of, config)
        then = measure(db, as_of, config, pricing, now.models)
    _, composed = composites(then, now.grading, config)
    frame = then.customers.assign(composite_score=composed["composite_score"].to_numpy(np.float64))
    place = pd.Index(frame["customer_id"]).get_indexer(
        copies["customer_id"] + scenario.SEPARATOR + copies["copy"]
    )
    frame["previous_rule"] = pd.Series(
        ("gate:" + tried["gate"].astype("str")).to_numpy(object), index=frame.index[place]
    )
    shut = gates(frame, config.gates, config.tiers.band_ratio).notna().to_numpy(bool)
    figure = frame[measure_name].to_numpy(np.float64, na_value=np.nan)[place]
    barred = shut[place] & tried["is_key"].to_numpy(bool)
    return np.asarray((figure >= tried["edge"].to_numpy(np.float64)) & ~barred, dtype=np.bool_)


def _told(reached: pd.DataFrame, aims: Aims, sizes: pd.DataFrame, config: Config) -> pd.DataFrame:
    """What was found, in words."""
    words = Words.of(config)
    whose = aims.frame[["customer_id", "target", "gate", "is_key"]]
    found = reached.merge(whose, on="customer_id", validate="m:1")
    found = found.merge(sizes[["customer_id", "net_amount"]], on="customer_id", how="left", validate="m:1")
    sentence = np.full(len(found), "", dtype=object)
    for lever in LEVERS:
        for plural in (False, True):
            mine = ((found["lever"] == lever) & ((found["amount"] > 1) == plural)).to_numpy(bool)
            part = found[mine]
            if part.empty:
                continue
            amount = part["amount"].to_numpy(np.float64)
            sentence[mine] = fill(
                str(words["paths"][lever]["many" if plural else "one"]),
                len(part),
                n=_counts(words, amount),
                amount=words.figures(amount, "count"),
                size=words.figures(part["net_amount"].to_numpy(np.float64), "money"),
                tier=part["target"].to_numpy(object),
            )
    shut = (found["gate"].notna() & found["is_key"].astype(bool)).to_numpy(bool)
    gate = [str(words["changes"]["gates"].get(name, name)) for name in found.loc[shut, "gate"]]
    sentence[shut] = sentence[shut] + fill(
        str(words["paths"]["gated"]),
        len(gate),
        gate=np.array(gate, dtype=object),
    )
    return found.assign(target_tier=found["target"], sentence=sentence)[list(COLUMNS)]


def _counts(words: Words, amounts: Floats) -> NDArray[np.object_]:
    """Small numbers in words, as a sentence begins with them."""
    names = words["paths"]["counts"]
    figures = words.figures(amounts, "count")
    small = np.array([*names, ""], dtype=object)[np.minimum(amounts.astype(int), len(names) + 1) - 1]
    return np.where(small == "", figures, small).astype(object)


def _opened(graded: Graded, measured: Measured, config: Config, told: set[str]) -> pd.DataFrame:
    """What opens the gate of those whom nothing else keeps out of a key tier, and no lever was found for.

    The tier is the one that the composite would give: `policy_tier`.
    """
    words, names = Words.of(config), tuple(graded.order)
    frame = graded.frame[graded.frame["tier_rule"].astype("str").str.startswith("gate:").to_numpy(bool)]
    frame = frame[(positions(frame["policy_tier"], names) < positions(frame["tier"], names))]
    frame = frame[~frame["customer_id"].isin(told)].sort_values("customer_id")
    if frame.empty:
        return NO_ROWS
    gate = frame["tier_rule"].astype("str").str.removeprefix("gate:")
    owed = _overdue(measured).reindex(frame["customer_id"]).to_numpy(np.float64)
    kind = gate.to_numpy(object)
    form: Mapping[str, str] = words["paths"]["open_gate"]
    texts = np.array([form.get(name, "") for name in kind], dtype=object)
    bad_debt = words.counted("month", config.gates.bad_debt_months or 0)
    known = {
        "tier": frame["policy_tier"].to_numpy(object),
        "money": words.figures(owed, "money"),
        "months": np.full(len(frame), bad_debt, dtype=object),
    }
    sentence = np.full(len(frame), "", dtype=object)
    for text in sorted(set(texts)):
        mine = texts == text
        sentence[mine] = fill(text, int(mine.sum()), **{name: part[mine] for name, part in known.items()})
    amount = np.where(kind == "arrears", owed, np.nan)
    rows = pd.DataFrame(
        {
            "customer_id": frame["customer_id"].to_numpy(),
            "lever": "open_gate",
            "amount": amount,
            "target_tier": frame["policy_tier"].to_numpy(object),
            "sentence": sentence,
        }
    )
    return rows[sentence != ""]


def _overdue(measured: Measured) -> pd.Series:
    """Money open for more than 30 days beyond terms, by customer_id."""
    rows = measured.payment_rows
    late = rows["is_open"].to_numpy(bool) & (rows["overdue_days"].to_numpy(np.float64) > ARREARS_DAYS)
    return rows.loc[late, "amount"].astype("float64").groupby(rows.loc[late, "customer_id"]).sum()


def with_potential(graded: Graded, found: pd.DataFrame, config: Config) -> Graded:
    """`graded` with `has_upgrade_potential` of the customers below the key tiers; null for key and inactive ones.

    True where something that the customer can do leads to the next tier (a row of `found` with an amount), or where
    what is expected over the horizon is at least 1.25 times what the customer brought in as many months of the last 12,
    and no less than the median of the next tier's members.
    """
    frame = graded.frame
    names = [name for name in graded.order if name != "inactive"]
    level = positions(frame["tier"], names)
    below_key = level >= max(len(graded.key), 1)
    clv = frame["clv"].to_numpy(np.float64, na_value=np.nan)
    money = frame["contribution_margin"].fillna(frame["revenue"]).to_numpy(np.float64, na_value=np.nan)
    present = money * config.lifetime_value.horizon_months / 12
    median = np.array([_median(clv[level == above]) for above in range(len(names))] + [np.nan])
    with np.errstate(invalid="ignore"):
        grows = (clv >= GROWTH_RATIO * np.maximum(present, 0.0)) & (clv >= median[np.maximum(level - 1, -1)])
    leads = frame["customer_id"].isin(found.loc[found["amount"].notna(), "customer_id"]).to_numpy(bool)
    potential = pd.Series(grows | leads, index=frame.index, dtype="boolean").mask(~below_key)
    return replace(graded, frame=frame.assign(has_upgrade_potential=potential))


def _median(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan
