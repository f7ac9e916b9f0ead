"""What the payment model reads of an invoice and its customer, and the ratios it shrinks to the peers'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.features import Feature

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

# Directions hold for the facts too: every average is over the invoices that have fallen due, paid or not, so that
# one later payment raises it or leaves it. That is why the trend, the overdue share of the open balance and the
# days since the last payment are shown to people but are no features: a later payment could improve them.
FEATURES: tuple[Feature, ...] = (
    Feature("late_ratio", "past_lateness", 1, "ratio"),
    Feature("long_late_ratio", "past_lateness", 1, "ratio"),
    Feature("beyond_terms_ratio", "past_lateness", 1, "ratio"),
    Feature("long_beyond_terms_ratio", "past_lateness", 1, "ratio"),
    Feature("late_amount_ratio", "past_lateness", 1, "ratio"),
    Feature("mean_days_beyond_terms", "past_lateness", 1, "days"),
    Feature("recent_days_beyond_terms", "past_lateness", 1, "days"),
    Feature("worst_days_beyond_terms", "past_lateness", 1, "days"),
    Feature("last_days_beyond_terms", "past_lateness", 1, "days"),
    Feature("last_three_days_beyond_terms", "past_lateness", 1, "days"),
    Feature("overdue_to_billed_ratio", "overdue_now", 1, "ratio"),
    Feature("overdue_invoices", "overdue_now", 1, "count"),
    Feature("longest_overdue_days", "overdue_now", 1, "days"),
    Feature("age_days", "invoice_age", 1, "days"),
    Feature("overdue_days", "invoice_age", 1, "days"),
    Feature("terms_days", "payment_terms", 0, "days"),
    Feature("terms_change_days", "payment_terms", 0, "days"),
    Feature("invoice_amount", "invoice_size", 0, "money"),
    Feature("amount_to_typical_ratio", "invoice_size", 0, "ratio"),
    Feature("open_ratio", "invoice_size", 0, "ratio"),
    Feature("billed", "billing", 0, "money"),
    Feature("known_invoices", "billing", 0, "count"),
    Feature("dispute_ratio", "disputes", 0, "ratio"),
    Feature("is_disputed", "disputes", 1, "flag"),
    Feature("due_day_of_month", "due_date", 0, "days"),
    Feature("due_weekday", "due_date", 0, "days"),
    Feature("is_due_at_year_end", "due_date", 0, "flag"),
    Feature("days_to_payment_run", "due_date", 0, "days"),
)
NAMES = tuple(feature.name for feature in FEATURES)

# Shrunk ratios: of how many invoices, how many were. Beyond terms by however little happens more often than late,
# so it tells habits apart from fewer invoices.
RATIOS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "late_ratio": ("known_invoices", "late_invoices"),
        "long_late_ratio": ("long_known_invoices", "long_late_invoices"),
        "beyond_terms_ratio": ("due_invoices", "beyond_terms_invoices"),
        "long_beyond_terms_ratio": ("long_due_invoices", "long_beyond_terms_invoices"),
    }
)

# What `predict` reads of a row; everything else is for people or for training.
INPUTS: tuple[str, ...] = (
    "segment",
    *(column for pair in RATIOS.values() for column in pair if column not in NAMES),
    *(name for name in NAMES if name not in RATIOS),
)

SEGMENT_PRIOR_INVOICES = 30  # a segment's rate starts from the rate of all, as if seen on this many invoices
SHRINKAGE_RANGE = (1.0, 1000.0)  # bounds of k, in invoices


@dataclass(frozen=True)
class Shrinkage:
    """One of RATIOS among the peers': (n·x + k·m)/(n + k), m the rate of the segment, k in invoices."""

    name: str
    rate: float
    segment_rates: Mapping[str, float]
    k: float

    @classmethod
    def fit(cls, name: str, observations: pd.DataFrame) -> Shrinkage:
        """Rates by what became of new invoices; k by each customer's latest counts, by the beta-binomial's moments.

        Kleinman (1973): the excess of Σ n(x − m)²/(m(1 − m)) over its binomial expectation is Σ(n − 1)·ρ, with
        ρ = 1/(k + 1). The counts cannot tell the rates: a customer who is not billed again is seen again only while
        it owes.
        """
        new = observations.loc[~observations["is_open"].astype(bool)].reset_index(drop=True)
        happened = _happened(name, new)
        if len(happened) == 0:
            return cls(name, 0.0, {}, SHRINKAGE_RANGE[1])
        rate = float(happened.mean())
        peers = happened.groupby(new["segment"].loc[happened.index]).agg(["sum", "count"])
        rates = (peers["sum"] + SEGMENT_PRIOR_INVOICES * rate) / (peers["count"] + SEGMENT_PRIOR_INVOICES)

        latest = observations.sort_values(["snapshot_date", "customer_id"]).drop_duplicates(
            "customer_id", keep="last"
        )
        counted, found = RATIOS[name]
        latest = latest.loc[latest[counted] > 0].sort_values("customer_id")
        m = latest["segment"].map(rates).fillna(rate).to_numpy(np.float64)
        usable = (m > 0) & (m < 1)
        n, x, m = (
            latest[counted].to_numpy(np.float64)[usable],
            latest[found].to_numpy(np.float64)[usable],
            m[usable],
        )
        excess = np.sum(n * (x / n - m) ** 2 / (m * (1 - m))) - len(n)
        correlation = excess / max(np.sum(n - 1), 1.0)
        k = 1 / correlation - 1 if correlation > 0 else SHRINKAGE_RANGE[1]
        by_segment = {str(segment): float(value) for segment, value in rates.items()}
        return cls(name, rate, by_segment, float(np.clip(k, *SHRINKAGE_RANGE)))

    def segment_rate(self, observations: pd.DataFrame) -> Floats:
        """The peers' rate for each row; that of all for an unknown segment."""
        rates = observations["segment"].map(dict(self.segment_rates)).astype("float64")
        return np.asarray(rates.fillna(self.rate), dtype=np.float64)

    def ratio(self, observations: pd.DataFrame) -> Floats:
        """The shrunk ratio of each row's customer."""
        n, x = (observations[column].to_numpy(np.float64) for column in RATIOS[self.name])
        return np.asarray((x + self.k * self.segment_rate(observations)) / (n + self.k), dtype=np.float64)


def _happened(name: str, rows: pd.DataFrame) -> pd.Series:
    """Of the rows of which it is known: whether the invoice was late, or beyond terms at all; 0 or 1."""
    if "beyond_terms" in name:
        known = rows.loc[rows["known_days"] > 0]
        return (known["days_beyond_terms"] > 0).astype("float64")
    return rows["is_late"].dropna().astype("float64")


Shrinkages = tuple[Shrinkage, ...]


def shrinkages_of(observations: pd.DataFrame) -> Shrinkages:
    return tuple(Shrinkage.fit(name, observations) for name in RATIOS)


def design(observations: pd.DataFrame, shrinkages: Shrinkages) -> pd.DataFrame:
    """The model's inputs: one row per observation with its index, the columns FEATURES, float64, NaN = unknown.

    Reads the columns INPUTS; raises ModelError naming those that are missing.
    """
    missing = [name for name in INPUTS if name not in observations.columns]
    if missing:
        raise ModelError(
            f"expected the columns of invoice_rows.observations, found none of {', '.join(missing)}. "
            "Give the rows of invoice_rows.customer_view."
        )
    ratios = {shrunk.name: shrunk.ratio(observations) for shrunk in shrinkages}
    return observations.assign(**ratios)[list(NAMES)].astype("float64")
