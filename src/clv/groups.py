"""Account groups and households: their members' money summed, their risk weighted by exposure, and the group's tier.

A group is graded like one large customer: the criteria of its active members joined, scored on the same scales,
weighed by the same weights. It takes no seat: its tier is that of a customer with its score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import composite
from clv.policies import Cut
from clv.tiers import gates

if TYPE_CHECKING:
    from clv.composite import Grading
    from clv.config import Config

Floats = NDArray[np.float64]

# How the values of members become the group's; an own standard is a mean.
SUMMED = ("lifetime_value", "contribution", "order_amount", "economic_value")
MONEY = ("clv", "contribution_margin", "order_amount", "revenue")
# Members with bad debt or blocked keep their group below key where they hold more than this much of its exposure.
MINORITY_RATIO = 0.5


def roots(direct: pd.Series) -> pd.Series:
    """The group at the top of each customer's chain of groups (indexed by customer_id); null for who is in none.

    A group may be a customer itself, and belong to another: then its members belong to that one, and a customer that
    others name as their group is a member of its own. Chains do not turn back: the contract refuses cycles.
    """
    parent: dict[str, str] = direct.dropna().to_dict()
    named = set(parent.values())

    def root(customer: str) -> str | None:
        seen: set[str] = set()
        while (above := parent.get(customer)) is not None and above != customer and customer not in seen:
            seen.add(customer)
            customer = above
        return customer if seen or customer in named else None

    found = [root(customer) if customer in parent or customer in named else None for customer in direct.index]
    return pd.Series(found, index=direct.index, dtype="str")


def group_tiers(
    frame: pd.DataFrame,
    values: pd.DataFrame,
    exposure: Floats,
    grading: Grading,
    config: Config,
    cut: Cut,
    switched_on: Sequence[str],
) -> pd.Series:
    """The tier of each row's account group, null for customers in none.

    `frame`: the active customers with their composite, `account_group_id` and what the gates read; `values`: their
    criteria; `exposure`: money each may owe. Money is summed; risk and payment records are means weighted by
    exposure (by the head where nobody owes anything). By sizes, the tier is that of the rank which the group's score
    would have among the customers; by thresholds, `tiers.group_thresholds` (else the customers' own) on the members'
    sum or average. Gates hold for groups too.
    """
    group = frame["account_group_id"]
    member = group.notna().to_numpy(bool)
    if not member.any():
        return pd.Series(None, index=frame.index, dtype="str")
    names = group[member].to_numpy(str)
    joined = _joined(frame[member], values[member], exposure[member], names)
    scores = grading.score(joined[list(switched_on)])
    composed = composite.compose(
        scores, config.weights, switched_on, grading.baselines, config.composite.minimum_coverage_ratio
    )
    settings = config.tiers
    is_sum = settings.group_measure == "sum"
    if cut.sizes is not None:
        figure = composed["composite_score"].to_numpy(np.float64)
        among = np.sort(-np.nan_to_num(frame["composite_score"].to_numpy(np.float64), nan=-math.inf))
        rank = np.searchsorted(among, -figure, side="left") + 1
        level = np.searchsorted(np.cumsum(cut.sizes), np.minimum(rank, len(frame)), side="left")
    else:
        limits = list((settings.group_thresholds or settings.thresholds).values())
        if settings.policy != "thresholds":
            limits = [new for _, new, _ in cut.limits]
        figure = composed["composite_score"].to_numpy(np.float64)
        if cut.measure != "composite_score":
            own = frame.loc[member, cut.measure].astype("float64")
            by_group = own.groupby(names)
            figure = (by_group.sum(min_count=1) if is_sum else by_group.mean()).to_numpy(np.float64)
        reached = figure[:, None] >= np.array(limits)[None, :]
        level = np.where(reached.any(axis=1), reached.argmax(axis=1), len(limits))
    gated = gates(joined.assign(is_blocked=joined["is_blocked"] > MINORITY_RATIO), config.gates).notna()
    lowest_key = len(settings.key)
    level = np.where(gated.to_numpy(bool), np.maximum(level, min(lowest_key, len(cut.names) - 1)), level)
    level = np.where(composed["is_provisional"] & (level == 0) & (len(cut.names) > 1), 1, level)
    found = pd.Series(np.array(cut.names, dtype=object)[level], index=joined.index)
    return group.map(found).astype("str")


def _joined(
    frame: pd.DataFrame, values: pd.DataFrame, exposure: Floats, names: NDArray[np.str_]
) -> pd.DataFrame:
    """One row per group: its criteria, its money, and what the gates read."""
    columns: dict[str, pd.Series] = {}
    for name in values.columns:
        if name in SUMMED:
            columns[name] = values[name].groupby(names).sum(min_count=1)
        elif name in ("payment", "payment_record"):
            columns[name] = _weighted(values[name], exposure, names)
        else:
            columns[name] = values[name].groupby(names).mean()
    for name in MONEY:
        if name in frame and name not in columns:
            columns[name] = frame[name].astype("float64").groupby(names).sum(min_count=1)
    figures: Mapping[str, pd.Series] = {
        "late_payment_probability": frame["late_payment_probability"],
        "overdue_balance_ratio": frame["overdue_balance_ratio"],
    }
    weights = {"overdue_balance_ratio": _or_zero(frame, "open_balance")}
    for name, figure in figures.items():
        columns[name] = _weighted(figure.astype("float64"), weights.get(name, exposure), names)
    blocked = _flags(frame, "is_blocked") | (
        frame["bad_debt"].notna().to_numpy(bool) if "bad_debt" in frame else np.zeros(len(frame), dtype=bool)
    )
    columns["is_blocked"] = _weighted(
        pd.Series(blocked.astype(np.float64), index=frame.index), exposure, names
    )
    return pd.DataFrame(columns)


def _weighted(figure: pd.Series, weight: Floats, names: NDArray[np.str_]) -> pd.Series:
    """Mean per group over the members with a figure, by weight; by the head where nobody has any weight."""
    known = figure.notna().to_numpy(bool)
    w = np.where(known, weight, 0.0)
    table = pd.DataFrame({"wx": w * np.nan_to_num(figure.to_numpy(np.float64)), "w": w})
    sums = table.groupby(names).sum()
    heads = figure.groupby(names).mean()
    return (sums["wx"] / sums["w"].where(sums["w"] > 0)).fillna(heads)


def _or_zero(frame: pd.DataFrame, name: str) -> Floats:
    if name not in frame:
        return np.zeros(len(frame))
    return np.asarray(np.nan_to_num(frame[name].to_numpy(np.float64, na_value=np.nan)), dtype=np.float64)


def _flags(frame: pd.DataFrame, name: str) -> NDArray[np.bool_]:
    if name not in frame:
        return np.zeros(len(frame), dtype=bool)
    return np.asarray(frame[name].astype("boolean").fillna(False), dtype=np.bool_)
