"""P(paid within 30, 60, 90 days) of real receivables, of which half are never paid, against survival analysis.

Learned from the fines known on a day; judged on those of the six months after it, as known when the last of them were
new: right-censored, so Brier scores are weighted (IPCW). Data: CLV_DATA_DIR.

    python benchmarks/traffic_fines.py [--as-of 2007-08-01]
"""

from __future__ import annotations

import argparse
from datetime import date, timedelta

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression

from clv import ingest, invoice_rows, metrics, warehouse
from clv.config import Config, load
from clv.models.payment_delay import PaymentDelay
from survival import Cox, Floats, brier_scores, integrated, kaplan_meier

DAYS_JUDGED = 180
JUDGED_DAYS, SHOWN_DAYS = (0, 7, 14, 21, 30, 45, 60, 90), (30, 60, 90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--as-of", type=date.fromisoformat, default=date(2007, 8, 1))
    as_of = parser.parse_args().as_of
    config = load(
        "configs/traffic_fines.yaml", ["engine.threads=1", f"payment.thresholds_days={list(JUDGED_DAYS)}"]
    )
    until = as_of + timedelta(days=DAYS_JUDGED)
    model, train, test = learned_and_judged(config, as_of, until)

    when = np.array(JUDGED_DAYS, dtype=np.float64)
    forecasts = {"model": model.exceedance(test).to_numpy(), **_others(train, test, when)}
    times, paid = _durations(test)
    table = Table(
        title=f"{len(test):,} fines of the {DAYS_JUDGED} days from {as_of}, {paid.sum():,} paid by {until}"
    )
    table.add_column("forecast")
    for heading in (
        "integrated Brier",
        *(f"{what} {day}" for day in SHOWN_DAYS for what in ("Brier", "paid by")),
    ):
        table.add_column(heading, justify="right")
    table.add_column(f"AUC {SHOWN_DAYS[0]}", justify="right")
    realised = kaplan_meier(times, paid)
    known = (times > SHOWN_DAYS[0]) | paid  # at that day: paid, or seen unpaid
    for name, unpaid in forecasts.items():
        scores = brier_scores(unpaid, times, paid, when)
        cells = [name, f"{integrated(scores, when):.4f}"]
        for day in SHOWN_DAYS:
            column = int(np.flatnonzero(when == day)[0])
            cells += [f"{scores[column]:.4f}", f"{1 - unpaid[:, column].mean():.3f}"]
        column = int(np.flatnonzero(when == SHOWN_DAYS[0])[0])
        late = (times > SHOWN_DAYS[0])[known].astype(np.float64)
        table.add_row(*cells, f"{metrics.auc(late, unpaid[known, column]):.3f}")
    fact = [cell for day in SHOWN_DAYS for cell in ("", f"{1 - realised.at(np.array([float(day)]))[0]:.3f}")]
    table.add_row("what happened", "", *fact, "")
    Console(width=140).print(table)


def learned_and_judged(
    config: Config, as_of: date, until: date
) -> tuple[PaymentDelay, pd.DataFrame, pd.DataFrame]:
    """The model of a day; the new fines it learned from; those of the days after it, as known at `until`."""
    with warehouse.workspace_of(config) as db:
        ingest.load(db, config, until)
        settings, segment = config.payment, config.segment
        train = invoice_rows.training_rows(db, as_of, settings, segment)
        reference = invoice_rows.customer_view(db, as_of, settings, segment)
        model = PaymentDelay.fit(train, settings, config.seed, 1, reference=reference)
        test = invoice_rows.observations(db, as_of, settings, segment, window_days=(until - as_of).days)
        test = invoice_rows.labels(db, test[~test["is_open"]], until, settings)
    return model, train[~train["is_open"].astype(bool)].reset_index(drop=True), test


def _durations(rows: pd.DataFrame) -> tuple[Floats, np.ndarray]:
    """Days from the fine to its payment, or to the last day on which it was seen unpaid; and whether it was paid."""
    paid = rows["is_settled"].to_numpy(bool)
    return rows["days_beyond_terms"].to_numpy(np.float64) - ~paid, paid


def _others(train: pd.DataFrame, test: pd.DataFrame, when: Floats) -> dict[str, Floats]:
    """Survival analysis and a logistic regression per day, on what is known of a fine at first."""
    times, paid = _durations(train)
    X, T = _inputs(train, train), _inputs(train, test)
    overall = kaplan_meier(times, paid).at(when)
    by_segment = {
        segment: kaplan_meier(times[rows], paid[rows]).at(when)
        for segment, rows in train.groupby("segment").indices.items()
    }
    logistic = np.empty((len(test), len(when)))
    for k, day in enumerate(when):
        known = train["known_days"].to_numpy() > day
        late = (train["days_beyond_terms"].to_numpy() > day)[known]
        logistic[:, k] = LogisticRegression(max_iter=1000).fit(X[known], late).predict_proba(T)[:, 1]
    return {
        "Kaplan–Meier": np.tile(overall, (len(test), 1)),
        "Kaplan–Meier by segment": np.array(
            [by_segment.get(segment, overall) for segment in test["segment"]]
        ),
        "logistic": logistic,
        "Cox": Cox.fit(X, times, paid).survival(T, when),
    }


def _inputs(train: pd.DataFrame, rows: pd.DataFrame) -> Floats:
    """Segments and weekdays as flags, the logarithm of the amount, the day of the month; standardised as in `train`."""

    def columns(frame: pd.DataFrame) -> pd.DataFrame:
        found = {
            f"segment {name}": frame["segment"] == name for name in sorted(train["segment"].unique())[1:]
        }
        found |= {f"weekday {day}": frame["due_weekday"] == day for day in range(2, 8)}
        found |= {"amount": np.log(frame["invoice_amount"]), "day": frame["due_day_of_month"]}
        return pd.DataFrame(found).astype("float64")

    known = columns(train)
    return ((columns(rows) - known.mean()) / known.std().replace(0.0, 1.0)).to_numpy()


if __name__ == "__main__":
    main()
