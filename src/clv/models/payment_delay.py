"""How late an invoice will be paid: one small monotone model for new, open and typical invoices.

A LightGBM model on `invoice_rows` gives P(more than `late_after_days` beyond terms); around it `payment_curve` says how
payments fall over the days, from which come P(more than h days) of other thresholds, the expected days beyond terms
and the day of payment. For an open invoice age and days overdue are features, so every answer is conditional on its
being unpaid so far; a customer's figure is the amount-weighted mean over its typical and its open invoices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.models.boosting import threads_for, train_trees
from clv.models.payment_curve import (
    LEARNED_ROWS,
    Chances,
    edges_of,
    exceedance,
    hurdle_periods,
    median_days,
    restricted_mean_days,
)
from clv.models.payment_features import FEATURES, NAMES, Shrinkage, Shrinkages, design, shrinkages_of
from clv.models.references import by_segment, listed, medians
from clv.models.shapley import Attribution, explainer

if TYPE_CHECKING:
    import lightgbm as lgb
    import pandas as pd

    from clv.config import PaymentSettings

Floats = NDArray[np.float64]

CERTAIN_LOGIT = 40.0  # its logistic is exactly 1 in double precision
LARGEST_SHIFT = 5.0  # of the logit

# 200 trees learn as much as the rows can teach: more from few rows spreads the probabilities too far, less from many
# not far enough.
LEARNING_RATE, ORDINARY_ROWS, LEARNING_RATE_RANGE = 0.03, 25_000, (0.015, 0.05)


@dataclass(frozen=True)
class Support:
    """Of so many invoices whose days are known far enough, so many were more than `days` beyond terms."""

    days: int
    invoices: int
    late_invoices: int
    is_enough: bool

    def __str__(self) -> str:
        enough = "" if self.is_enough else ": too few to tell"
        return f"more than {self.days} days: {self.late_invoices} of {self.invoices} invoices{enough}"


@dataclass(frozen=True)
class PaymentDelay:
    """What was learned: the booster of the threshold, the curve around it, the shrunk ratios, one shift of the logit,
    the reference row, the settings, and what the data says of every threshold asked for.

    `detail` holds figures of the training for the log: invoices, late invoices, their rate, the k of each ratio,
    the shift, and the means predicted and realised in the two later periods.
    """

    late: lgb.Booster
    chances: Chances
    shrinkages: Shrinkages
    logit_shift: float
    reference: Floats
    late_after_days: int
    cap_days: int
    support: tuple[Support, ...]
    detail: Mapping[str, float]
    segment_references: Mapping[str, Floats] = field(default_factory=dict)

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
        """Learn from `invoice_rows.training_rows`, whatever their order.

        Every row weighs the same, although an invoice open at several snapshots has several rows: to divide by
        their number would make a new invoice count less the later it was paid.

        `reference` are the rows of `invoice_rows.customer_view` of the active customers at the training date; the
        median of each feature over their typical invoices is what explanations compare with. Raises ModelError
        ("unsupportable threshold") where fewer invoices than the settings ask for have a known outcome.
        """
        rows = observations.sort_values(["snapshot_date", "invoice_id"], ignore_index=True)
        open_question = rows.loc[rows["is_late"].notna() & (rows["overdue_days"] <= payment.late_after_days)]
        _require_support(open_question, payment)
        shrinkages = shrinkages_of(rows)
        shift, checks = _logit_shift(open_question, payment, seed, threads)
        typical = reference.loc[reference["is_typical"].astype(bool)]
        if typical.empty:
            raise ModelError(
                "expected the typical invoices of active customers as reference, found none. "
                "Give the rows of invoice_rows.customer_view."
            )
        late = open_question.drop_duplicates("invoice_id")["is_late"]
        inputs, segments = design(typical, shrinkages), typical["segment"].to_numpy(str)
        return cls(
            late=_fit_late(open_question, shrinkages, seed, threads),
            chances=_fit_chances(rows, shrinkages, payment, seed, threads),
            shrinkages=shrinkages,
            logit_shift=shift,
            reference=medians(inputs.to_numpy()),
            segment_references=by_segment(inputs.to_numpy(), segments, medians),
            late_after_days=payment.late_after_days,
            cap_days=payment.cap_days,
            support=tuple(_support(rows, days, payment) for days in payment.thresholds_days),
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
        """Per row, with its index: `late_payment_probability`, `expected_days_late`, `days_to_payment`.

        The probability is exactly 1 for an open invoice that is already that late. The expected days are the
        restricted mean of max(0, days beyond terms), between the days already overdue and `cap_days`.
        `days_to_payment`: from the row's date to the day by which payment is at least as likely as not (the median);
        NaN where that lies beyond `cap_days`. A row's figures do not depend on the other rows.
        """
        import pandas as pd

        probability, unpaid, after = self._curve(observations, threads)
        edges = self.chances.edges
        return pd.DataFrame(
            {
                "late_payment_probability": probability,
                "expected_days_late": restricted_mean_days(unpaid, edges, after, self.cap_days),
                "days_to_payment": median_days(unpaid, edges, after) - (after + 1),
            },
            index=observations.index,
        )

    def exceedance(self, observations: pd.DataFrame, threads: int = 1) -> pd.DataFrame:
        """P(more than h days beyond terms) of every supported threshold h, rising: a column each, named by h.

        Falls from column to column, and agrees with `predict` at `late_after_days`.
        """
        import pandas as pd

        _, unpaid, _ = self._curve(observations, threads)
        days = sorted({self.late_after_days, *(told.days for told in self.support if told.is_enough)})
        columns = np.searchsorted(self.chances.edges, days)
        return pd.DataFrame(unpaid[:, columns], columns=days, index=observations.index)

    def _curve(self, observations: pd.DataFrame, threads: int) -> tuple[Floats, Floats, Floats]:
        """P(late); P(unpaid after each edge of the curve); the last day, in days beyond terms, known as unpaid."""
        X = design(observations, self.shrinkages).to_numpy()
        overdue = observations["overdue_days"].to_numpy(np.float64)
        raw = (
            self.late.predict(X, raw_score=True, num_threads=threads_for(len(X), threads)) + self.logit_shift
        )
        probability = _logistic(np.where(self._is_late(overdue), CERTAIN_LOGIT, raw))
        after = overdue - 1
        return (
            probability,
            exceedance(self.chances, self.late_after_days, X, after, probability, threads),
            after,
        )

    def attribute(self, observations: pd.DataFrame, inputs: Floats | None = None) -> Attribution:
        """Exact Shapley values of the logit of `late_payment_probability` against the reference row.

        Columns of `phi` are FEATURES. A row that is already late has the logit 40, of which `overdue_days` bears
        what the model itself does not explain. `inputs`: the values of `design` of the rows, where they are at hand.
        """
        if inputs is None:
            inputs = design(observations, self.shrinkages).to_numpy(np.float64)
        found = explainer(self.late, self.reference).attribute(inputs)
        raw, phi = found.raw + self.logit_shift, found.phi.copy()
        is_late = self._is_late(observations["overdue_days"].to_numpy(np.float64))
        phi[is_late, NAMES.index("overdue_days")] += CERTAIN_LOGIT - raw[is_late]
        raw[is_late] = CERTAIN_LOGIT
        return Attribution(raw, found.raw_reference + self.logit_shift, phi)

    def seen_from(self, segment: str | None) -> PaymentDelay:
        """The same model held against the reference customer of a segment; itself where that has none."""
        if segment is None or segment not in self.segment_references:
            return self
        return replace(self, reference=self.segment_references[segment])

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
            "reference": listed(self.reference),
            "segment_references": {name: listed(row) for name, row in self.segment_references.items()},
            "late_after_days": self.late_after_days,
            "cap_days": self.cap_days,
            "chances": {"level": self.chances.level, "edges_days": self.chances.edges.tolist()},
            "support": [asdict(told) for told in self.support],
            "detail": dict(self.detail),
        }
        return {
            "late.txt": self.late.model_to_string(),
            "chances.txt": self.chances.trees.model_to_string(),
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
            chances=Chances(
                lgb.Booster(model_str=files["chances.txt"]),
                learned["chances"]["level"],
                np.array(learned["chances"]["edges_days"], dtype=np.int64),
            ),
            shrinkages=tuple(Shrinkage(**shrunk) for shrunk in learned["shrinkages"]),
            logit_shift=learned["logit_shift"],
            reference=np.array(learned["reference"], dtype=np.float64),
            late_after_days=learned["late_after_days"],
            cap_days=learned["cap_days"],
            support=tuple(Support(**told) for told in learned["support"]),
            detail=learned["detail"],
            segment_references={
                name: np.array(row, dtype=np.float64)
                for name, row in learned.get("segment_references", {}).items()  # none in models of before
            },
        )


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


def _logistic(raw: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-raw)), dtype=np.float64)


def _support(rows: pd.DataFrame, days: int, payment: PaymentSettings) -> Support:
    known = rows.loc[rows["known_days"] > days]
    invoices = known["invoice_id"].nunique()
    late = known.loc[known["days_beyond_terms"] > days, "invoice_id"].nunique()
    rarer = min(late, invoices - late)
    is_enough = invoices >= payment.minimum_invoices and rarer >= payment.minimum_late_invoices
    return Support(days, invoices, late, is_enough)


def _require_support(late: pd.DataFrame, payment: PaymentSettings) -> None:
    invoices = late["invoice_id"].nunique()
    late_invoices = late.loc[late["is_late"] == 1, "invoice_id"].nunique()
    if invoices < payment.minimum_invoices or late_invoices < payment.minimum_late_invoices:
        raise ModelError(
            f"unsupportable threshold: expected at least {payment.minimum_invoices} invoices with a known outcome, "
            f"{payment.minimum_late_invoices} of them more than {payment.late_after_days} days late, found "
            f"{invoices} and {late_invoices}. Lower payment.late_after_days, or grade by the payment record."
        )


def _fit_late(rows: pd.DataFrame, shrinkages: Shrinkages, seed: int, threads: int) -> lgb.Booster:
    rate = np.clip(LEARNING_RATE * np.sqrt(len(rows) / ORDINARY_ROWS), *LEARNING_RATE_RANGE)
    parameters = {
        "objective": "binary",
        "num_leaves": 4,
        "learning_rate": float(rate),
        "min_data_in_leaf": 40 if len(rows) >= 500 else 20,
        "feature_fraction": 0.5,
        "lambda_l2": 10.0,
        "monotone_constraints": [feature.monotone for feature in FEATURES],
    }
    label = rows["is_late"].to_numpy(np.float64)
    return train_trees(design(rows, shrinkages).to_numpy(), label, parameters, 200, seed, threads)


def _fit_chances(
    rows: pd.DataFrame, shrinkages: Shrinkages, payment: PaymentSettings, seed: int, threads: int
) -> Chances:
    known = rows.loc[rows["is_late"].notna()]
    some = np.unique(np.linspace(0, len(known) - 1, min(len(known), LEARNED_ROWS)).round().astype(int))
    known = known.iloc[some]
    edges, paid = edges_of(payment), known["is_settled"].to_numpy(bool)
    after = known["overdue_days"].to_numpy(np.float64) - 1
    until = known["days_beyond_terms"].to_numpy(np.float64) - ~paid  # an open one may be paid today
    periods = hurdle_periods(
        edges, payment.late_after_days, after, until, known["is_late"].to_numpy(np.float64), paid
    )
    return Chances.fit(design(known, shrinkages).to_numpy(), periods, edges, seed, threads)


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
        shrinkages = shrinkages_of(past)
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
    """The shift of the logit at which the mean prediction meets the mean outcome, within LARGEST_SHIFT; by halving."""
    low, high = -LARGEST_SHIFT, LARGEST_SHIFT
    for _ in range(60):
        middle = (low + high) / 2
        if _logistic(raw + middle).mean() < label.mean():
            low = middle
        else:
            high = middle
    return (low + high) / 2
