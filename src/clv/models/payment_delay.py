"""How late an invoice will be paid: one small monotone model for new, open and typical invoices.

Two LightGBM models on the rows of `receivables`: P(more than `late_after_days` beyond terms), and the expected days
beyond terms. For an open invoice age and days overdue are features, so the answer is conditional on its being
unpaid so far; a customer's figure is the amount-weighted mean over its typical and its open invoices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.features import Feature
from clv.models.boosting import one_thread, threads_for, train_trees
from clv.models.shapley import Attribution, TreeShapley

if TYPE_CHECKING:
    import lightgbm as lgb
    import pandas as pd

    from clv.config import PaymentSettings

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
CERTAIN_LOGIT = 40.0  # its logistic is exactly 1 in double precision


@dataclass(frozen=True)
class Shrinkage:
    """One of RATIOS among the peers': (n·x + k·m)/(n + k), m the rate of the segment, k in invoices."""

    name: str
    rate: float
    segment_rates: Mapping[str, float]
    k: float

    @classmethod
    def fit(cls, name: str, observations: pd.DataFrame) -> Shrinkage:
        """Learned from each customer's latest counts; k by the method of moments of the beta-binomial.

        Kleinman (1973): the excess of Σ n(x − m)²/(m(1 − m)) over its binomial expectation is Σ(n − 1)·ρ, with
        ρ = 1/(k + 1).
        """
        latest = observations.sort_values(["snapshot_date", "customer_id"]).drop_duplicates(
            "customer_id", keep="last"
        )
        counted, found = RATIOS[name]
        latest = latest.loc[latest[counted] > 0].sort_values("customer_id")
        n, x = latest[counted].to_numpy(np.float64), latest[found].to_numpy(np.float64)
        if len(n) == 0:
            return cls(name, 0.0, {}, SHRINKAGE_RANGE[1])
        rate = float(x.sum() / n.sum())
        sums = latest.groupby("segment")[[counted, found]].sum()
        rates = (sums[found] + SEGMENT_PRIOR_INVOICES * rate) / (sums[counted] + SEGMENT_PRIOR_INVOICES)
        m = latest["segment"].map(rates).to_numpy(np.float64)
        usable = (m > 0) & (m < 1)
        n, x, m = n[usable], x[usable], m[usable]
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


Shrinkages = tuple[Shrinkage, ...]


def _shrinkages(observations: pd.DataFrame) -> Shrinkages:
    return tuple(Shrinkage.fit(name, observations) for name in RATIOS)


@dataclass(frozen=True)
class PaymentDelay:
    """What was learned: two boosters, the shrunk ratios, one shift of the logit, the reference row, and the settings.

    `detail` holds figures of the training for the log: invoices, late invoices, their rate, the k of each ratio,
    the shift, and the means predicted and realised in the two later periods.
    """

    late: lgb.Booster
    days: lgb.Booster
    shrinkages: Shrinkages
    logit_shift: float
    reference: Floats
    late_after_days: int
    cap_days: int
    detail: Mapping[str, float]

    KIND = "payment-delay"

    @classmethod
    def fit(
        cls,
        observations: pd.DataFrame,
        payment: PaymentSettings,
        seed: int,
        threads: int,
        *,
        reference: pd.DataFrame,
    ) -> PaymentDelay:
        """Learn from `receivables.training_rows`, whatever their order.

        Every row weighs the same, although an invoice open at several snapshots has several rows: to divide by
        their number would make a new invoice count less the later it was paid.

        `reference` are the rows of `receivables.customer_view` of the active customers at the training date; the
        median of each feature over their typical invoices is what explanations compare with. Raises ModelError
        ("unsupportable threshold") where fewer invoices than the settings ask for have a known outcome.
        """
        rows = observations.sort_values(["snapshot_date", "invoice_id"], ignore_index=True)
        open_question = rows.loc[rows["is_late"].notna() & (rows["overdue_days"] <= payment.late_after_days)]
        aged = rows.loc[rows["days_late"].notna() & (rows["overdue_days"] < payment.cap_days)]
        _require_support(open_question, aged, payment)
        shrinkages = _shrinkages(rows)
        shift, checks = _logit_shift(open_question, payment, seed, threads)
        typical = reference.loc[reference["is_typical"].astype(bool)]
        if typical.empty:
            raise ModelError(
                "expected the typical invoices of active customers as reference, found none. "
                "Give the rows of receivables.customer_view."
            )
        late = open_question.drop_duplicates("invoice_id")["is_late"]
        return cls(
            late=_fit_late(open_question, shrinkages, seed, threads),
            days=_fit_days(aged, shrinkages, payment.cap_days, seed, threads),
            shrinkages=shrinkages,
            logit_shift=shift,
            reference=design(typical, shrinkages).median().to_numpy(np.float64),
            late_after_days=payment.late_after_days,
            cap_days=payment.cap_days,
            detail={
                "invoices": float(len(late)),
                "late_invoices": float(late.sum()),
                "late_rate": float(late.mean()),
                **{f"{shrunk.name}_k": shrunk.k for shrunk in shrinkages},
                "logit_shift": shift,
                **checks,
            },
        )

    def predict(self, observations: pd.DataFrame, threads: int = 1) -> pd.DataFrame:
        """Per row, with its index: `late_payment_probability` and `expected_days_late`.

        The probability is exactly 1 for an open invoice that is already that late. The days are the restricted
        mean of max(0, days beyond terms) between the days already overdue and `cap_days`. A row's figures do not
        depend on the other rows.
        """
        import pandas as pd

        X = design(observations, self.shrinkages).to_numpy()
        overdue = observations["overdue_days"].to_numpy(np.float64)
        threads = threads_for(len(X), threads)
        raw = self.late.predict(X, raw_score=True, num_threads=threads) + self.logit_shift
        passed = np.clip(overdue, 0, self.cap_days)
        share = _logistic(self.days.predict(X, raw_score=True, num_threads=threads))
        return pd.DataFrame(
            {
                "late_payment_probability": _logistic(np.where(self._is_late(overdue), CERTAIN_LOGIT, raw)),
                "expected_days_late": passed + (self.cap_days - passed) * share,
            },
            index=observations.index,
        )

    def attribute(self, observations: pd.DataFrame) -> Attribution:
        """Exact Shapley values of the logit of `late_payment_probability` against the reference row.

        Columns of `phi` are FEATURES. A row that is already late has the logit 40, of which `overdue_days` bears
        what the model itself does not explain.
        """
        found = TreeShapley(self.late, self.reference).attribute(
            design(observations, self.shrinkages).to_numpy()
        )
        raw, phi = found.raw + self.logit_shift, found.phi.copy()
        is_late = self._is_late(observations["overdue_days"].to_numpy(np.float64))
        phi[is_late, NAMES.index("overdue_days")] += CERTAIN_LOGIT - raw[is_late]
        raw[is_late] = CERTAIN_LOGIT
        return Attribution(raw, found.raw_reference + self.logit_shift, phi)

    @property
    def reference_probability(self) -> float:
        """Probability of the reference customer's typical invoice."""
        raw = self.late.predict(self.reference[None, :], raw_score=True, num_threads=1)
        return float(_logistic(np.asarray(raw) + self.logit_shift)[0])

    def _is_late(self, overdue_days: Floats) -> NDArray[np.bool_]:
        return np.asarray(overdue_days > self.late_after_days)

    def to_files(self) -> dict[str, str]:
        """The whole model as text: two LightGBM files and one JSON file."""
        learned = {
            "features": list(NAMES),
            "shrinkages": [asdict(shrunk) for shrunk in self.shrinkages],
            "logit_shift": self.logit_shift,
            "reference": [None if np.isnan(value) else float(value) for value in self.reference],
            "late_after_days": self.late_after_days,
            "cap_days": self.cap_days,
            "detail": dict(self.detail),
        }
        return {
            "late.txt": self.late.model_to_string(),
            "days.txt": self.days.model_to_string(),
            "payment_delay.json": json.dumps(learned, indent=2, sort_keys=True, ensure_ascii=False),
        }

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> PaymentDelay:
        """The model that `to_files` wrote; hand in verified files only. ModelError for one of other features."""
        import lightgbm as lgb

        learned: dict[str, Any] = json.loads(files["payment_delay.json"])
        if tuple(learned["features"]) != NAMES:
            raise ModelError(
                f"expected a payment model of the features {', '.join(NAMES)}, found "
                f"{', '.join(learned['features'])}. Train again with this version."
            )
        return cls(
            late=lgb.Booster(model_str=files["late.txt"]),
            days=lgb.Booster(model_str=files["days.txt"]),
            shrinkages=tuple(Shrinkage(**shrunk) for shrunk in learned["shrinkages"]),
            logit_shift=learned["logit_shift"],
            reference=np.array(learned["reference"], dtype=np.float64),
            late_after_days=learned["late_after_days"],
            cap_days=learned["cap_days"],
            detail=learned["detail"],
        )


def design(observations: pd.DataFrame, shrinkages: Shrinkages) -> pd.DataFrame:
    """The model's inputs: one row per observation with its index, the columns FEATURES, float64, NaN = unknown.

    Reads the columns INPUTS; raises ModelError naming those that are missing.
    """
    missing = [name for name in INPUTS if name not in observations.columns]
    if missing:
        raise ModelError(
            f"expected the columns of receivables.observations, found none of {', '.join(missing)}. "
            "Give the rows of receivables.customer_view."
        )
    ratios = {shrunk.name: shrunk.ratio(observations) for shrunk in shrinkages}
    return observations.assign(**ratios)[list(NAMES)].astype("float64")


def customer_figures(rows: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per customer of `customer_view`, ordered by customer_id, from its rows' predictions.

    `late_payment_probability` and `expected_days_late` are weighted by the amount at stake; `amount_at_risk` is
    the sum of amount x probability.
    """
    import pandas as pd

    p = predictions["late_payment_probability"]
    weight = rows["weight"].astype("float64")
    weighted = pd.DataFrame(
        {
            "customer_id": rows["customer_id"],
            "is_open": ~rows["is_typical"].astype(bool),
            "invoice_id": rows["invoice_id"],
            "late_payment_probability": weight * p,
            "expected_days_late": weight * predictions["expected_days_late"],
            "amount_at_risk": rows["amount"].astype("float64") * p,
        }
    ).sort_values(["customer_id", "is_open", "invoice_id"])
    figures = weighted.groupby("customer_id", as_index=False)[
        ["late_payment_probability", "expected_days_late", "amount_at_risk"]
    ].sum()
    figures["late_payment_probability"] = figures["late_payment_probability"].clip(0, 1)
    return figures


def baselines(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, Floats]:
    """What simpler forecasts give as P(late) for the rows of `test`, by name; learned from the labelled `train`.

    segment_rate: the late rate of the peers. shrunk_ratio: the customer's own of three years, shrunk to it.
    last_three: the share of its last three invoices that were late, within 1-99 % so that its log loss is finite.
    logistic: on the model's features, medians for what is missing, standardised and cut at five standard
    deviations. paid_only: the naive customer ratio over invoices of the year that are already paid.
    """
    from sklearn.linear_model import LogisticRegression

    shrinkages = _shrinkages(train)
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


def _logistic(raw: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-raw)), dtype=np.float64)


def _require_support(late: pd.DataFrame, aged: pd.DataFrame, payment: PaymentSettings) -> None:
    invoices = late["invoice_id"].nunique()
    late_invoices = late.loc[late["is_late"] == 1, "invoice_id"].nunique()
    if invoices < payment.minimum_invoices or late_invoices < payment.minimum_late_invoices:
        raise ModelError(
            f"unsupportable threshold: expected at least {payment.minimum_invoices} invoices with a known outcome, "
            f"{payment.minimum_late_invoices} of them more than {payment.late_after_days} days late, found "
            f"{invoices} and {late_invoices}. Lower payment.late_after_days, or grade by the payment record."
        )
    if aged["invoice_id"].nunique() < payment.minimum_invoices:
        raise ModelError(
            f"unsupportable threshold: expected at least {payment.minimum_invoices} invoices due "
            f"{payment.cap_days} days ago or earlier, found {aged['invoice_id'].nunique()}. "
            "Lower payment.cap_days, or grade by the payment record."
        )


def _fit_late(rows: pd.DataFrame, shrinkages: Shrinkages, seed: int, threads: int) -> lgb.Booster:
    label = rows["is_late"].to_numpy(np.float64)
    return _boost(rows, shrinkages, label, np.ones(len(rows)), "binary", seed, threads)


def _fit_days(
    rows: pd.DataFrame, shrinkages: Shrinkages, cap_days: int, seed: int, threads: int
) -> lgb.Booster:
    """The share of the days left until the cap that will pass: a fractional logit (Papke & Wooldridge, 1996).

    Weighted by the days left, its mean is that of the days; the answer can neither fall below the days already
    overdue nor exceed the cap.
    """
    passed = rows["overdue_days"].to_numpy(np.float64).clip(0, cap_days)
    left = cap_days - passed
    share = ((rows["days_late"].to_numpy(np.float64) - passed) / left).clip(0, 1)
    weights = left / cap_days
    return _boost(rows, shrinkages, share, weights, "cross_entropy", seed, threads)


def _boost(
    rows: pd.DataFrame,
    shrinkages: Shrinkages,
    label: Floats,
    weights: Floats,
    objective: str,
    seed: int,
    threads: int,
) -> lgb.Booster:
    parameters = {
        "objective": objective,
        "num_leaves": 4,
        "learning_rate": 0.03,
        "min_data_in_leaf": 40 if len(rows) >= 500 else 20,
        "feature_fraction": 0.5,
        "lambda_l2": 10.0,
        "monotone_constraints": [feature.monotone for feature in FEATURES],
    }
    return train_trees(
        design(rows, shrinkages).to_numpy(), label, parameters, 200, seed, threads, weight=weights
    )


def _logit_shift(
    rows: pd.DataFrame, payment: PaymentSettings, seed: int, threads: int
) -> tuple[float, dict[str, float]]:
    """A shift of the logit that repairs the level, where two later periods agree that it does (else 0).

    The snapshots' last half is cut in two. Each part is predicted by a model of what was known when it began. The
    shift that the earlier part asks for must lower the log loss of the later one; then the later one's is used.
    No isotonic step: below some 2,000 invoices it overfits, and it would break the additivity of explanations.
    """
    dates = np.sort(rows["snapshot_date"].unique())
    if len(dates) < 4:
        return 0.0, {}
    starts = [dates[len(dates) // 2], dates[len(dates) * 3 // 4]]
    shifts: list[float] = []
    checks: dict[str, float] = {}
    helps = False
    for name, start, end in zip(("earlier", "later"), starts, (starts[1], None), strict=True):
        past = rows.loc[rows["label_date"] <= start]
        part = rows.loc[
            (rows["snapshot_date"] >= start) & (True if end is None else rows["snapshot_date"] < end)
        ]
        late = part.loc[part["is_late"] == 1, "invoice_id"].nunique()
        if past["is_late"].sum() < payment.minimum_late_invoices or late < payment.minimum_late_invoices:
            return 0.0, {}
        shrinkages = _shrinkages(past)
        booster = _fit_late(past, shrinkages, seed, threads)
        raw = np.asarray(
            booster.predict(
                design(part, shrinkages).to_numpy(),
                raw_score=True,
                num_threads=threads_for(len(part), threads),
            )
        )
        label = part["is_late"].to_numpy(np.float64)
        checks[f"{name}_mean_predicted"] = float(_logistic(raw).mean())
        checks[f"{name}_mean_realised"] = float(label.mean())
        if shifts:
            helps = _log_loss(raw + shifts[0], label) < _log_loss(raw, label)
        shifts.append(_level(raw, label))
    return (shifts[1] if helps else 0.0), checks


def _log_loss(raw: Floats, label: Floats) -> float:
    return float(np.mean(np.logaddexp(0, raw) - label * raw))


def _level(raw: Floats, label: Floats) -> float:
    """The shift of the logit at which the mean prediction meets the mean outcome, by Newton's method."""
    shift = 0.0
    for _ in range(20):
        p = _logistic(raw + shift)
        shift += float(np.sum(label - p) / np.sum(p * (1 - p)))
    return shift
