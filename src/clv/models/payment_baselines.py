"""Simpler forecasts of late payment, beside which every report shows the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clv.models.boosting import one_thread
from clv.models.payment_features import design, shrinkages_of

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


def baselines(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, Floats]:
    """What simpler forecasts give as P(late) for the rows of `test`, by name; learned from the labelled `train`.

    segment_rate: the late rate of the peers. shrunk_ratio: the customer's own of three years, shrunk to it.
    last_three: the share of its last three invoices that were late, within 1-99 % so that its log loss is finite.
    logistic: on the model's features, medians for what is missing, standardised and cut at five standard
    deviations. paid_only: the naive customer ratio over invoices of the year that are already paid.
    """
    from sklearn.linear_model import LogisticRegression

    shrinkages = shrinkages_of(train)
    long = next(shrunk for shrunk in shrinkages if shrunk.name == "long_late_ratio")
    rows = train.loc[train["is_late"].notna() & ~train["is_open"].astype(bool)].sort_values(
        ["snapshot_date", "invoice_id"]
    )
    X = design(rows, shrinkages)
    middle = X.median().fillna(0.0)
    X = X.fillna(middle)
    mean, sd = X.mean(), X.std().replace(0.0, 1.0)
    logistic = LogisticRegression(max_iter=1000)
    with one_thread():
        logistic.fit(((X - mean) / sd).clip(-5, 5).to_numpy(), rows["is_late"].to_numpy(np.int64))
    T = ((design(test, shrinkages).fillna(middle) - mean) / sd).clip(-5, 5).to_numpy()
    paid = test["paid_late_invoices"].astype("float64") / test["paid_invoices"].where(
        test["paid_invoices"] > 0
    )
    overall = float(train["paid_late_invoices"].sum() / max(1, train["paid_invoices"].sum()))
    return {
        "segment_rate": long.segment_rate(test),
        "shrunk_ratio": long.ratio(test),
        "last_three": test["last_three_late_ratio"]
        .astype("float64")
        .fillna(long.rate)
        .clip(0.01, 0.99)
        .to_numpy(),
        "logistic": logistic.predict_proba(T)[:, 1],
        "paid_only": paid.fillna(overall).clip(0.01, 0.99).to_numpy(),
    }
