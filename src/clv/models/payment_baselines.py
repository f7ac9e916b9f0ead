"""Other forecasts of late payment, simpler or of another kind, beside which every report shows the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clv.models.boosting import one_thread, train_trees
from clv.models.payment_curve import LEARNED_ROWS, Chances, Periods, edges_of
from clv.models.payment_features import FEATURES, Shrinkages, design, shrinkages_of

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import PaymentSettings

Floats = NDArray[np.float64]

# What is known of an invoice and not of its customer.
OF_THE_INVOICE = ("invoice_age", "payment_terms", "invoice_size", "due_date")


def baselines(
    train: pd.DataFrame, test: pd.DataFrame, payment: PaymentSettings, seed: int
) -> dict[str, Floats]:
    """What other forecasts give as P(late) for the rows of `test`, by name; learned from the labelled `train`.

    segment_rate: the late rate of the peers. shrunk_ratio: the customer's own of three years, shrunk to it.
    last_three: the share of its last three invoices that were late, within 1-99 % so that its log loss is finite.
    logistic: on the model's features, medians for what is missing, standardised and cut at five standard
    deviations. hazard: a chance of being paid per day, of invoices paid or still open, multiplied up to the
    threshold. customer_level: the late share of a customer's coming invoices from what is known of the customer
    alone. paid_only: the naive customer ratio over invoices of the year that are already paid.
    """
    shrinkages = shrinkages_of(train)
    long = next(shrunk for shrunk in shrinkages if shrunk.name == "long_late_ratio")
    new = train.loc[~train["is_open"].astype(bool)].sort_values(["snapshot_date", "invoice_id"])
    known = new.loc[new["is_late"].notna()]
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
        "logistic": _logistic(known, test, shrinkages),
        "hazard": _hazard(new, test, shrinkages, payment, seed),
        "customer_level": _customer_level(known, test, shrinkages, seed),
        "paid_only": paid.fillna(overall).clip(0.01, 0.99).to_numpy(),
    }


def _logistic(train: pd.DataFrame, test: pd.DataFrame, shrinkages: Shrinkages) -> Floats:
    from sklearn.linear_model import LogisticRegression

    X = design(train, shrinkages)
    middle = X.median().fillna(0.0)
    X = X.fillna(middle)
    mean, sd = X.mean(), X.std().replace(0.0, 1.0)
    model = LogisticRegression(max_iter=1000)
    with one_thread():
        model.fit(((X - mean) / sd).clip(-5, 5).to_numpy(), train["is_late"].to_numpy(np.int64))
    T = ((design(test, shrinkages).fillna(middle) - mean) / sd).clip(-5, 5).to_numpy()
    return np.asarray(model.predict_proba(T)[:, 1], dtype=np.float64)


def _hazard(
    train: pd.DataFrame, test: pd.DataFrame, shrinkages: Shrinkages, payment: PaymentSettings, seed: int
) -> Floats:
    """Invoices whose lateness is not known yet count too, up to the day on which they were seen unpaid."""
    some = np.unique(np.linspace(0, len(train) - 1, min(len(train), LEARNED_ROWS)).round().astype(int))
    train, edges = train.iloc[some], edges_of(payment)
    paid = train["is_settled"].to_numpy(bool)
    until = train["days_beyond_terms"].to_numpy(np.float64) - ~paid
    periods = Periods.cut(edges, train["overdue_days"].to_numpy(np.float64) - 1, until, paid)
    chances = Chances.fit(design(train, shrinkages).to_numpy(), periods, edges, seed, threads=1)
    after = test["overdue_days"].to_numpy(np.float64) - 1
    unpaid = chances.still_unpaid(design(test, shrinkages).to_numpy(), after, threads=1)
    return np.asarray(unpaid[:, edges == payment.late_after_days][:, 0], dtype=np.float64)


def _customer_level(train: pd.DataFrame, test: pd.DataFrame, shrinkages: Shrinkages, seed: int) -> Floats:
    of_customer = [feature for feature in FEATURES if feature.concept not in OF_THE_INVOICE]
    names = [feature.name for feature in of_customer]
    X = design(train, shrinkages)[names].assign(
        customer_id=train["customer_id"], snapshot_date=train["snapshot_date"], is_late=train["is_late"]
    )
    groups = X.groupby(["snapshot_date", "customer_id"], sort=True)
    rows, invoices = groups.mean(), groups.size()
    parameters = {
        "objective": "cross_entropy",
        "num_leaves": 4,
        "learning_rate": 0.03,
        "min_data_in_leaf": 40,
        "feature_fraction": 0.5,
        "lambda_l2": 10.0,
        "monotone_constraints": [feature.monotone for feature in of_customer],
    }
    trees = train_trees(
        rows[names].to_numpy(),
        rows["is_late"].to_numpy(np.float64),
        parameters,
        200,
        seed,
        threads=1,
        weight=invoices.to_numpy(np.float64),
    )
    raw = np.asarray(trees.predict(design(test, shrinkages)[names].to_numpy(), raw_score=True, num_threads=1))
    return np.asarray(1 / (1 + np.exp(-raw)), dtype=np.float64)
