"""The payment model on an invented ledger whose true probabilities are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from clv import invoice_rows, period
from clv.config import PaymentSettings
from clv.errors import ModelError
from clv.models.payment_baselines import baselines
from clv.models.payment_delay import PaymentDelay, _level, customer_figures
from clv.models.payment_features import FEATURES, INPUTS, NAMES, RATIOS, Shrinkage, design
from clv.tables import CORE
from clv.warehouse import Engine, workspace

AS_OF = date(2025, 7, 1)
END = date(2026, 1, 1)
PAYMENT = PaymentSettings(minimum_invoices=300)
CUSTOMERS = 250


@dataclass(frozen=True)
class Ledger:
    db: Engine
    truth: pd.Series  # P(more than 30 days late) by invoice_id
    training: pd.DataFrame
    reference: pd.DataFrame
    model: PaymentDelay


def invent(db: Engine, rng: np.random.Generator) -> pd.Series:
    """Monthly invoices of 250 customers over three years; days beyond terms = exponential around a mean of each."""
    mean_days = rng.lognormal(2.6, 0.9, CUSTOMERS)
    customer, month = (a.ravel() for a in np.meshgrid(np.arange(CUSTOMERS), np.arange(36), indexing="ij"))
    issued = pd.Timestamp("2023-01-01") + pd.to_timedelta(
        month * 30 + rng.integers(0, 28, len(month)), unit="D"
    )
    terms = np.array([14, 30, 45])[customer % 3]
    due = issued + pd.to_timedelta(terms, unit="D")
    delay = np.floor(rng.exponential(mean_days[customer]) - 10).clip(-terms).astype(int)
    paid = due + pd.to_timedelta(delay, unit="D")
    ids = np.array([f"I{i:05}" for i in range(len(month))])
    invoices = pd.DataFrame(
        {
            "invoice_id": ids,
            "customer_id": [f"C{i:03}" for i in customer],
            "invoice_date": issued,
            "due_date": due,
            "amount": rng.lognormal(6, 1, len(ids)).round(2),
        }
    )
    customers = pd.DataFrame(
        {
            "customer_id": [f"C{i:03}" for i in range(CUSTOMERS)],
            "first_contact_date": pd.Timestamp("2022-12-01"),
        }
    )
    db.run(f"CREATE TABLE main.customers ({CORE['customers'].ddl()}, industry VARCHAR)")
    db.append("main.customers", customers.assign(industry=[f"S{i % 4}" for i in range(CUSTOMERS)]))
    db.append("main.invoices", invoices)
    payments = invoices[["invoice_id", "amount"]].assign(payment_date=paid)
    db.append("main.payments", payments.loc[payments["payment_date"] < pd.Timestamp(END)])
    # floor(e - 10) > 30 exactly where e >= 41
    return pd.Series(np.exp(-41 / mean_days[customer]), index=ids)


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with workspace(threads=1, memory_limit="1GB") as db:
        for table in CORE.values():
            if table.name != "customers":
                db.run(f"CREATE TABLE main.{table.name} ({table.ddl()})")
        truth = invent(db, np.random.default_rng(3))
        training = invoice_rows.training_rows(db, AS_OF, PAYMENT, ["industry"])
        reference = invoice_rows.customer_view(db, AS_OF, PAYMENT, ["industry"])
        model = PaymentDelay.fit(training, PAYMENT, 7, 1, reference=reference)
        yield Ledger(db, truth, training, reference, model)


def test_rule_9_probability_is_calibrated_against_the_truth_on_a_later_period(ledger: Ledger) -> None:
    rows = invoice_rows.observations(ledger.db, AS_OF, PAYMENT, ["industry"], window_days=60)
    rows = rows.loc[~rows["is_open"]]
    predicted = ledger.model.predict(rows)["late_payment_probability"].to_numpy()
    true = ledger.truth[rows["invoice_id"]].to_numpy()
    assert abs(predicted.mean() - true.mean()) < 0.015
    assert np.corrcoef(predicted, true)[0, 1] > 0.85
    others = baselines(ledger.training, rows, PAYMENT, 7)
    error = {name: np.mean((p - true) ** 2) for name, p in {**others, "model": predicted}.items()}
    assert error["model"] < min(error["segment_rate"], error["last_three"]) / 4
    assert error["model"] < error["paid_only"] / 2
    # In a world that does not change, the shrunk ratio of three years is about the best there is.
    assert error["model"] < 1.2 * error["shrunk_ratio"]
    assert all(((p > 0) & (p < 1)).all() for p in others.values())


def test_rule_3_open_invoice_is_conditional_on_its_age(ledger: Ledger) -> None:
    """P(late | unpaid so far) = S(due + 30) / S(age): it rises while the invoice stays open."""
    row = ledger.reference.loc[ledger.reference["is_typical"]].iloc[[0]]
    ages = pd.concat([row.assign(age_days=30 + days, overdue_days=days) for days in range(-30, 60, 5)])
    predicted = ledger.model.predict(ages)
    p = predicted["late_payment_probability"].to_numpy()
    assert (np.diff(p) >= 0).all()
    assert p[5] > p[0]


def test_rule_3_open_invoices_have_the_probability_given_that_they_are_unpaid_so_far(ledger: Ledger) -> None:
    """P(D > 30 | D >= u) = S(31) / S(u): exp(-(31 - u)/mean) for u >= -10, where D + 10 is exponential as here."""
    rows = invoice_rows.observations(ledger.db, AS_OF, PAYMENT, ["industry"])
    rows = rows.loc[rows["is_open"] & rows["overdue_days"].between(-10, 30)]
    mean_days = -41 / np.log(ledger.truth[rows["invoice_id"]].to_numpy())
    true = np.exp(-(31 - rows["overdue_days"].to_numpy()) / mean_days)
    predicted = ledger.model.predict(rows)["late_payment_probability"].to_numpy()
    assert len(rows) > 100
    assert abs(predicted.mean() - true.mean()) < 0.03
    assert np.corrcoef(predicted, true)[0, 1] > 0.85


def test_already_late_is_certain_and_days_lie_between_overdue_and_cap(ledger: Ledger) -> None:
    rows = ledger.training
    predicted = ledger.model.predict(rows)
    is_late = rows["overdue_days"] > PAYMENT.late_after_days
    assert is_late.sum() > 50
    assert (predicted.loc[is_late, "late_payment_probability"] == 1.0).all()
    assert (predicted.loc[~is_late, "late_payment_probability"] < 1.0).all()
    overdue = rows["overdue_days"].clip(0, PAYMENT.cap_days)
    assert (predicted["expected_days_late"] >= overdue - 1e-9).all()
    assert (predicted["expected_days_late"] <= PAYMENT.cap_days + 1e-9).all()


def test_thresholds_expected_days_and_payment_date_are_coherent(ledger: Ledger) -> None:
    """P(more than h) falls with h and is the graded one at its threshold; the median is late where P > 1/2."""
    rows = ledger.training
    predicted, more = ledger.model.predict(rows), ledger.model.exceedance(rows)
    assert more.columns.to_list() == [0, 30, 60, 90]
    assert (more.diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)
    np.testing.assert_array_equal(more[30], predicted["late_payment_probability"])
    beyond = predicted["days_to_payment"] + rows["overdue_days"]
    assert (predicted["days_to_payment"].dropna() >= 0).all()
    for h in more.columns:
        np.testing.assert_array_equal(more[h] > 0.5, (beyond > h) | beyond.isna())
        # E[min(D, cap)] lies between h P(D > h) and what the days up to h and behind it can add at most.
        assert (predicted["expected_days_late"] >= h * more[h] - 1e-9).all()
        assert (
            predicted["expected_days_late"] <= h * more[0] + (PAYMENT.cap_days - h) * more[h] + 1e-9
        ).all()


def test_thresholds_are_calibrated_on_a_later_period(ledger: Ledger) -> None:
    rows = invoice_rows.observations(ledger.db, AS_OF, PAYMENT, ["industry"], window_days=60)
    rows = invoice_rows.labels(ledger.db, rows, END, PAYMENT)
    rows = rows.loc[(rows["known_days"] > 90) & ~rows["is_open"]]
    more = ledger.model.exceedance(rows)
    for h in more.columns:
        assert more[h].mean() == pytest.approx((rows["days_beyond_terms"] > h).mean(), abs=0.03), h


def test_a_threshold_the_data_cannot_support_is_named_with_its_counts(ledger: Ledger) -> None:
    settings = PaymentSettings(minimum_invoices=300, minimum_late_invoices=250, thresholds_days=[0, 60, 150])
    model = PaymentDelay.fit(ledger.training, settings, 7, 1, reference=ledger.reference)
    assert model.exceedance(ledger.reference).columns.to_list() == [0, 30, 60]
    told = {support.days: support for support in model.support}
    assert told[150].late_invoices < 250 < told[60].late_invoices
    assert str(told[150]).startswith(f"more than 150 days: {told[150].late_invoices} of ")
    assert str(told[150]).endswith("too few to tell")


def test_where_no_invoice_was_ever_late_the_threshold_is_refused_with_its_counts(ledger: Ledger) -> None:
    paid = ledger.training.assign(
        is_late=ledger.training["is_late"].where(ledger.training["is_late"].isna(), 0.0)
    )
    with pytest.raises(ModelError, match=r"unsupportable threshold: .* found \d+ and 0\. Lower"):
        PaymentDelay.fit(paid, PAYMENT, 7, 1, reference=ledger.reference)


def test_expected_days_are_unbiased_in_sum(ledger: Ledger) -> None:
    known = ledger.training.loc[ledger.training["days_late"].notna()]
    predicted = ledger.model.predict(known)["expected_days_late"]
    assert predicted.mean() == pytest.approx(known["days_late"].mean(), rel=0.05)


def test_rule_11_more_past_delay_never_lowers_the_risk(ledger: Ledger) -> None:
    rows = ledger.reference.assign(overdue_days=lambda frame: frame["overdue_days"].clip(upper=20))
    before = ledger.model.predict(rows)
    columns = [f.name for f in FEATURES if f.monotone == 1 and f.name not in RATIOS]
    for name in [*columns, *(late for _, late in RATIOS.values())]:
        worse = rows.assign(**{name: rows[name] + (1 if name != "overdue_days" else 5)})
        after = ledger.model.predict(worse)
        assert (after["late_payment_probability"] >= before["late_payment_probability"]).all(), name
        assert (after["expected_days_late"] >= before["expected_days_late"] - 1e-9).all(), name


def test_rule_11_paying_later_never_lowers_the_risk(ledger: Ledger) -> None:
    """The rule holds for the facts: every payment comes later, no customer looks safer."""
    db = ledger.db
    db.run("CREATE TABLE main.as_paid AS SELECT * FROM main.payments")
    before = customer_figures(ledger.reference, ledger.model.predict(ledger.reference))
    typical = ledger.reference["is_typical"]
    p = ledger.model.predict(ledger.reference.loc[typical])["late_payment_probability"].to_numpy()
    try:
        for days in (3, 25, 120):
            db.run(f"""
                CREATE OR REPLACE TABLE main.payments AS
                SELECT * REPLACE (CAST(payment_date + INTERVAL {days} DAY AS DATE) AS payment_date) FROM main.as_paid
            """)
            period.see(db, AS_OF)
            rows = invoice_rows.customer_view(db, AS_OF, PAYMENT, ["industry"])
            worse = ledger.model.predict(rows.loc[rows["is_typical"]])["late_payment_probability"].to_numpy()
            assert (worse >= p - 1e-12).all()
            p = worse
        after = customer_figures(rows, ledger.model.predict(rows))
        assert after["expected_days_late"].mean() > 2 * before["expected_days_late"].mean()
    finally:
        db.run("CREATE OR REPLACE TABLE main.payments AS SELECT * FROM main.as_paid")


def test_row_order_does_not_matter_for_training(ledger: Ledger) -> None:
    shuffled = ledger.training.sample(frac=1, random_state=5)
    model = PaymentDelay.fit(
        shuffled, PAYMENT, 7, 1, reference=ledger.reference.sample(frac=1, random_state=6)
    )
    assert model.to_files() == ledger.model.to_files()


@pytest.mark.slow  # two threads on a busy machine wait for each other
def test_thread_count_does_not_matter(ledger: Ledger) -> None:
    model = PaymentDelay.fit(ledger.training, PAYMENT, 7, 2, reference=ledger.reference)
    pd.testing.assert_frame_equal(
        model.predict(ledger.reference, threads=2), ledger.model.predict(ledger.reference), check_exact=True
    )


def test_customer_alone_scores_as_in_the_batch(ledger: Ledger) -> None:
    rows = ledger.reference
    figures = customer_figures(rows, ledger.model.predict(rows)).set_index("customer_id")
    assert list(figures.columns) == ["late_payment_probability", "expected_days_late", "amount_at_risk"]
    for customer_id in ("C000", "C123"):
        own = rows.loc[rows["customer_id"] == customer_id].sample(frac=1, random_state=1)
        alone = customer_figures(own, ledger.model.predict(own)).set_index("customer_id")
        pd.testing.assert_series_equal(alone.loc[customer_id], figures.loc[customer_id], check_exact=True)


def test_rule_7_customer_figures_are_weighted_by_amount() -> None:
    rows = pd.DataFrame(
        {
            "customer_id": ["B", "A", "A"],
            "invoice_id": [None, "I1", None],
            "is_typical": [True, False, True],
            "weight": [1.0, 0.25, 0.75],
            "amount": [10.0, 100.0, 300.0],
        }
    )
    predictions = pd.DataFrame(
        {"late_payment_probability": [0.5, 1.0, 0.2], "expected_days_late": [10.0, 60.0, 4.0]}
    )
    assert customer_figures(rows, predictions).to_dict("list") == {
        "customer_id": ["A", "B"],
        "late_payment_probability": [pytest.approx(0.4), 0.5],
        "expected_days_late": [pytest.approx(18.0), 10.0],
        "amount_at_risk": [pytest.approx(160.0), 5.0],
    }


def test_the_level_is_found_where_the_logits_are_far_apart() -> None:
    """Newton's method runs away from here: nearly all rows are certain, and the level lies between the others."""
    raw = np.concatenate([np.full(900, 9.0), np.full(100, -9.0)])
    label = np.concatenate([np.ones(900), np.arange(100) < 50])
    shift = _level(raw, label)
    assert shift == pytest.approx(5.0)  # as far as it may go
    assert _level(np.array([-1.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0])) == pytest.approx(
        brentq(lambda s: np.mean(1 / (1 + np.exp(-np.array([-1.0, 1.0, 2.0]) - s))) - 2 / 3, -5, 5)
    )


def test_files_hold_the_whole_model(ledger: Ledger) -> None:
    files = ledger.model.to_files()
    again = PaymentDelay.from_files(files)
    pd.testing.assert_frame_equal(
        again.predict(ledger.reference), ledger.model.predict(ledger.reference), check_exact=True
    )
    assert again.to_files() == files
    with pytest.raises(ModelError, match="Train again"):
        PaymentDelay.from_files(
            {**files, "payment_delay.json": files["payment_delay.json"].replace('"billed"', '"invented"')}
        )


def test_prediction_reads_its_inputs_only_and_names_a_missing_one(ledger: Ledger) -> None:
    few = ledger.reference[list(INPUTS)]
    pd.testing.assert_frame_equal(
        ledger.model.predict(few), ledger.model.predict(ledger.reference), check_exact=True
    )
    with pytest.raises(ModelError, match="found none of terms_days"):
        ledger.model.predict(few.drop(columns="terms_days"))


def test_attribution_adds_up_to_the_logit_and_never_contradicts_its_fact(ledger: Ledger) -> None:
    rows = ledger.reference
    found = ledger.model.attribute(rows)
    np.testing.assert_allclose(found.raw_reference + found.phi.sum(axis=1), found.raw, atol=1e-9)
    # LightGBM sums its trees in another order than contributions are summed in.
    np.testing.assert_allclose(
        1 / (1 + np.exp(-found.raw)),
        ledger.model.predict(rows)["late_payment_probability"].to_numpy(),
        rtol=1e-13,
    )
    X = design(rows, ledger.model.shrinkages).to_numpy()
    for column, feature in enumerate(FEATURES):
        if feature.monotone == 1:
            above = X[:, column] > ledger.model.reference[column]
            assert (found.phi[above, column] >= -1e-12).all(), feature.name


def test_reference_is_the_median_typical_invoice(ledger: Ledger) -> None:
    typical = ledger.reference.loc[ledger.reference["is_typical"]]
    reference = dict(zip(NAMES, ledger.model.reference, strict=True))
    assert reference["age_days"] == 0
    assert reference["terms_days"] == 30
    assert reference["worst_days_beyond_terms"] == typical["worst_days_beyond_terms"].median()


def test_rule_8_few_invoices_are_shrunk_to_the_segment() -> None:
    """Customers of beta(2, 6): k = 8, found by the method of moments; their rate is 0.25."""
    rng = np.random.default_rng(1)
    n = rng.integers(1, 15, 4000)
    tendency = rng.beta(2, 6, 4000)
    observations = pd.DataFrame(
        {
            "customer_id": [f"C{i}" for i in range(4000)],
            "snapshot_date": pd.Timestamp("2025-01-01"),
            "segment": "all",
            "is_open": False,
            "is_late": (rng.random(4000) < tendency).astype(float),
            "known_invoices": n,
            "late_invoices": rng.binomial(n, tendency),
        }
    )
    found = Shrinkage.fit("late_ratio", observations)
    assert found.rate == pytest.approx(0.25, abs=0.015)
    assert found.k == pytest.approx(8, rel=0.2)
    some = observations.head(3).assign(
        known_invoices=[0, 1, 100], late_invoices=[0, 1, 100], segment=["all", "all", "new"]
    )
    m, k = found.segment_rates["all"], found.k
    np.testing.assert_allclose(
        found.ratio(some), [m, (1 + k * m) / (1 + k), (100 + k * found.rate) / (100 + k)]
    )


def test_rates_of_segments_are_those_of_new_invoices_where_customers_do_not_come_back() -> None:
    """Each of 1000 customers has one invoice, 3 in 10 late in `a` and none in `b`; only who owes is seen again."""
    late = np.where(np.arange(1000) < 500, np.arange(1000) % 10 < 3, False).astype(float)
    new = pd.DataFrame(
        {
            "customer_id": [f"C{i:04}" for i in range(1000)],
            "snapshot_date": pd.Timestamp("2025-01-01"),
            "segment": np.where(np.arange(1000) < 500, "a", "b"),
            "is_open": False,
            "is_late": late,
            "known_invoices": 0,
            "late_invoices": 0,
        }
    )
    again = new.loc[late == 1].assign(
        snapshot_date=pd.Timestamp("2025-04-01"), is_open=True, known_invoices=1, late_invoices=1
    )
    found = Shrinkage.fit("late_ratio", pd.concat([new, again]))
    assert found.rate == pytest.approx(0.15)
    prior = 30 * 0.15
    assert found.segment_rates == pytest.approx({"a": (150 + prior) / 530, "b": prior / 530})


def test_unsupportable_threshold_is_named_with_its_counts(ledger: Ledger) -> None:
    few = ledger.training.loc[
        ledger.training["snapshot_date"] == ledger.training["snapshot_date"].min()
    ].head(200)
    with pytest.raises(
        ModelError, match=r"unsupportable threshold: expected at least 300 .* found 1\d\d and"
    ):
        PaymentDelay.fit(few, PAYMENT, 7, 1, reference=ledger.reference)
    with pytest.raises(ModelError, match=r"unsupportable threshold"):
        PaymentDelay.fit(ledger.training.head(0), PAYMENT, 7, 1, reference=ledger.reference)
