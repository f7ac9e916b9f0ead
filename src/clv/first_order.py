"""The step at the first order: what a prospect was said to be worth, what its history says then, and what came.

Before the first order the prospect model speaks, from it on the lifetime-value model. The two forecast different
things: P(order) x the 12 months that begin with the first order, against the horizon that begins today, that order
past and the cost to serve taken off. So there is a step, and nobody should be surprised by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import date

import numpy as np
import pandas as pd

from clv import metrics

Fact = tuple[str, float | None, str]

MINIMUM_CUSTOMERS = 10  # below, a spread says nothing
PRIOR_ORDERS = (0.5, 1.0, 2.0, 4.0, 8.0)  # k of a blend z = n / (n + k)
RATIO = "first_order_step_{}_ratio"
QUARTILES = {"quartile_1": 0.25, "median": 0.5, "quartile_3": 0.75}


def step(pairs: pd.DataFrame) -> pd.DataFrame:
    """One row per figure of the step: `figure`, `mean`, `quartile_1`, `median`, `quartile_3`, `customers`.

    `pairs`: learn.first_order.pairs, a row per customer. Figures: the last prospect_value and value_given_conversion
    before the first order, the value that came within 12 months from it; the first clv after it, and the value that
    came within its horizon; `step_ratio` = clv / value_given_conversion (its mean that of the totals). Empty without
    a customer.
    """
    if pairs.empty:
        return pd.DataFrame(columns=["figure", "mean", *QUARTILES, "customers"])
    ratio = pairs["clv"] / pairs["value_given_conversion"]
    columns = {name: pairs[name] for name in FIGURES} | {"step_ratio": ratio}
    means = {name: math.fsum(values) / len(values) for name, values in columns.items()}
    given = means["value_given_conversion"]
    means["step_ratio"] = means["clv"] / given if given > 0 else math.nan
    return pd.DataFrame(
        {
            "figure": name,
            "mean": means[name],
            **{quartile: float(values.quantile(level)) for quartile, level in QUARTILES.items()},
            "customers": len(values),
        }
        for name, values in columns.items()
    )


FIGURES = (
    "conversion_probability",
    "prospect_value",
    "value_given_conversion",
    "realised_from_first_order",
    "clv",
    "realised_after",
)


def blends(pairs: pd.DataFrame, seed: int) -> pd.DataFrame:
    """How well each forecast ranks what young customers then brought: clv, the prospect's value, and blends of both.

    A blend is z clv + (1 - z) value_given_conversion, z = n / (n + k) with n orders so far. Columns: forecast,
    prior_orders (k; null where there is no blend), normalised_gini of realised_after, gain_low to gain_high (95 %
    interval of the gain over clv on the same draws), customers. Empty without a customer.
    """
    columns = ["forecast", "prior_orders", "normalised_gini", "gain_low", "gain_high", "customers"]
    if pairs.empty:
        return pd.DataFrame(columns=columns)
    clv, prospect, orders, came = (
        pairs[name].to_numpy(np.float64)
        for name in ("clv", "value_given_conversion", "order_count", "realised_after")
    )
    forecasts = [("clv", math.nan, clv), ("value_given_conversion", math.nan, prospect)]
    for k in PRIOR_ORDERS:
        z = orders / (orders + k)
        forecasts.append(("blend", k, z * clv + (1 - z) * prospect))
    rows = []
    for name, k, forecast in forecasts:
        low, high = metrics.paired_bootstrap_difference(
            metrics.normalised_gini, came, forecast, clv, seed=seed
        )
        gini = metrics.normalised_gini(came, forecast)
        rows.append((name, k, gini, low, high, len(came)))
    return pd.DataFrame(rows, columns=columns)


def facts(pairs: pd.DataFrame, since: date, until: date) -> Iterator[Fact]:
    """Rows of `month_facts` about customers whose first order fell in [since, until): the step, and what came."""
    when = f"customers who first ordered from {since} until {until}"
    yield "first_order_customers", float(len(pairs)), f"{when}, prospects with a forecast before"
    if len(pairs) < MINIMUM_CUSTOMERS:
        return
    found = step(pairs).set_index("figure")
    ratio = found.loc["step_ratio"]
    yield (
        RATIO.format("mean"),
        _number(ratio["mean"]),
        "expected value after the first order / value as a prospect given an order, totals",
    )
    for quartile in QUARTILES:
        yield (
            RATIO.format(quartile),
            _number(ratio[quartile]),
            f"the same by customer: {quartile.replace('_', ' ')}",
        )
    for name, what in {
        "value_given_conversion": "mean value said of them as prospects, given an order",
        "realised_from_first_order": "what then came within the months from the first order, in the mean",
        "clv": "mean expected value by their history, at the next month's beginning",
        "realised_after": "what came within its horizon, in the mean",
    }.items():
        yield f"first_order_{name}", _number(found.loc[name, "mean"]), what


def of_customer(
    read: Callable[..., pd.DataFrame], customer_id: str, as_of: date
) -> dict[str, float | None] | None:
    """The step of a customer of the published month `as_of` that was a prospect the month before; else None.

    `prospect_value` and `conversion_probability` then, `value_given_conversion` of both, `clv` now (None where last
    period's value grades); of those whose step has been measured, `customers` and by how much their value moved,
    `moved_mean`, `moved_quartile_1`, `moved_quartile_3` (ratio less 1), None where none are published. `read` runs a
    query over the published tables.
    """
    grades = read(
        """SELECT as_of_date, value_source, clv, prospect_value, conversion_probability FROM clv.grades
           WHERE customer_id = ? AND as_of_date IN (SELECT as_of_date FROM clv.published WHERE as_of_date <= ?
           ORDER BY as_of_date DESC LIMIT 2) ORDER BY as_of_date""",
        customer_id,
        as_of,
    )
    if grades["value_source"].tolist() != ["prospect", "history"]:
        return None
    [before, now] = grades.to_dict("records")
    value, probability = before["prospect_value"], before["conversion_probability"]
    if pd.isna(value) or pd.isna(probability) or probability <= 0:
        return None
    facts_of_month = read(
        "SELECT name, value FROM clv.month_facts WHERE as_of_date = ? AND starts_with(name, 'first_order_')",
        as_of,
    )
    known = dict(zip(facts_of_month["name"], facts_of_month["value"], strict=True))
    ratios = {name: known.get(RATIO.format(name)) for name in ("mean", "quartile_1", "quartile_3")}
    measured = not any(ratio is None or pd.isna(ratio) for ratio in ratios.values())
    moved = {
        name: float(ratio) - 1 if measured and ratio is not None else None for name, ratio in ratios.items()
    }
    return {
        "prospect_value": float(value),
        "conversion_probability": float(probability),
        "value_given_conversion": float(value) / float(probability),
        "clv": None if pd.isna(now["clv"]) else float(now["clv"]),
        "customers": known.get("first_order_customers") if measured else None,
        **{f"moved_{name}": change for name, change in moved.items()},
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
