"""How much of the true probability of late payment a ledger can tell at all: truth, the best estimate, and the model.

An invented company is made. The `best estimate` knows the laws by which the simulator draws payers (not their
parameters) and every payment before the date: the posterior mean of each invoice's probability, by importance
sampling. No forecast from the past can be expected to rank better; what it lacks to the truth is chance to come.

    python benchmarks/payment_ceiling.py [--customers 5000] [--seed 7] [--draws 4000]
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import expit, logit

from clv import ingest, learn, metrics, period, receivables, truth, warehouse
from clv.config import Config, load
from clv.simulate import catalogue, population, simulate
from clv.simulate.receivables import (
    HABIT_PERSISTENCE,
    HABIT_SHOCK,
    NEVER_PAID_RATIO,
    late_payment_probability,
)

Floats = NDArray[np.float64]
AS_OF, HORIZON_DAYS = date(2026, 1, 1), 180
AFTER_EVERYTHING = date(2027, 1, 1)
CUSTOMERS_PER_DRAW = 300  # who share one set of draws


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--customers", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--draws", type=int, default=4000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clv-benchmark-") as folder:
        path = Path(folder) / "demo.duckdb"
        simulate(path, customers=asked.customers, prospects=200, seed=asked.seed, threads=1)
        config = load("configs/demo.yaml", [f"warehouse.path={path}", "engine.threads=1"])
        with warehouse.workspace_of(config) as db:
            ingest.load(db, config, AFTER_EVERYTHING)
            trial = learn.try_payment_delay(
                db, AS_OF, config, known_at=period.add_months(AS_OF, 6), horizon_days=HORIZON_DAYS
            )
            true = truth.read(db, config, AS_OF).invoices.set_index("invoice_id")["late_payment_probability"]
            rows = trial.rows.assign(true=trial.rows["invoice_id"].map(true))
            judged = rows["true"].notna().to_numpy()
            past = _past(db, config)
    rows = rows[judged].reset_index(drop=True)
    best = _best_estimates(past, rows, asked.draws, np.random.default_rng(asked.seed))
    known = rows["long_due_invoices"].to_numpy() > 0
    forecasts = {"truth": rows["true"].to_numpy(), "best estimate": best}
    forecasts |= {name: values[judged] for name, values in trial.probabilities.items()}
    _show(rows["true"].to_numpy(), rows["is_late"].to_numpy(np.float64), forecasts, known, asked)


def _show(
    true: Floats,
    late: Floats,
    forecasts: dict[str, Floats],
    known: NDArray[np.bool_],
    asked: argparse.Namespace,
) -> None:
    table = Table(
        title=f"{len(true):,} invoices of {HORIZON_DAYS} days from {AS_OF}; {asked.customers:,} customers, "
        f"seed {asked.seed}"
    )
    table.add_column("forecast")
    headings = (
        "AUC",
        "expected AUC",
        "of truth",
        "known",
        "unseen",
        "slope",
        "expected slope",
        "mean − true mean",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, p in forecasts.items():
        expected = expected_auc(true, p)
        table.add_row(
            name,
            f"{metrics.auc(late, p):.3f}",
            f"{expected:.4f}",
            f"{expected / expected_auc(true, true):.3f}",
            f"{expected_auc(true[known], p[known]):.3f}",
            f"{expected_auc(true[~known], p[~known]):.3f}",
            f"{metrics.calibration_slope(late, p):.2f}",
            f"{expected_slope(true, p):.2f}",
            f"{100 * (p.mean() - true.mean()):+.2f} points",
        )
    Console(width=130).print(table)
    Console().print(f"realised {late.mean():.4f}, true {true.mean():.4f}")


def expected_auc(true: Floats, predicted: Floats) -> float:
    """P(a late invoice ranks before another), over all outcomes that the true probabilities allow."""
    _, level = np.unique(predicted, return_inverse=True)
    late, punctual = np.bincount(level, true), np.bincount(level, 1 - true)
    below = np.cumsum(punctual) - punctual / 2
    return float((late * below).sum() / (late.sum() * punctual.sum()))


def expected_slope(true: Floats, predicted: Floats) -> float:
    """Slope of the logistic regression of the outcome on the forecast's logit, likewise."""
    X = np.column_stack([np.ones(len(true)), logit(predicted)])
    beta = np.array([logit(true.mean()), 0.0])
    for _ in range(50):
        p = expit(X @ beta)
        beta = beta + np.linalg.solve((X * (p * (1 - p))[:, None]).T @ X, X.T @ (true - p))
    return float(beta[1])


def _past(db: warehouse.Engine, config: Config) -> pd.DataFrame:
    """What was known of every invoice: month of issue from the start, days late, whether settled."""
    period.see(db, AS_OF)
    state = receivables.invoice_state(db, AS_OF, config.payment)
    return db.frame(f"""
        SELECT customer_id, invoice_date, days_beyond_terms AS days, is_open FROM {state}
        WHERE NOT is_fully_credited AND (NOT is_open OR days_beyond_terms > 0)
        ORDER BY customer_id, invoice_id""")


def _best_estimates(past: pd.DataFrame, rows: pd.DataFrame, draws: int, rng: np.random.Generator) -> Floats:
    start = past["invoice_date"].min()
    issued = rows["due_date"] - pd.to_timedelta(rows["terms_days"], unit="D")
    rows = rows.assign(month=_months(issued, start), position=np.arange(len(rows)))
    past = past.assign(month=_months(past["invoice_date"], start))
    histories = dict(tuple(past.groupby("customer_id")))
    lateness = dict(zip(catalogue.INDUSTRIES, population.INDUSTRY_LATENESS, strict=True))
    graded = _months(pd.Series([pd.Timestamp(AS_OF)]), start)[0]
    found = np.empty(len(rows))
    for number, (customer, own) in enumerate(rows.groupby("customer_id")):
        if number % CUSTOMERS_PER_DRAW == 0:
            log_odds, scale = _draws(draws, int(rows["month"].max()) + 1, graded, rng)
        regime = log_odds + lateness.get(own["segment"].iloc[0], 0.0)
        weight = np.zeros(draws)
        if customer in histories:
            weight = _log_likelihood(histories[customer], regime, scale)
        weight = np.exp(weight - weight.max())
        probability = late_payment_probability(expit(regime[:, own["month"]]), scale[:, None])
        found[own["position"]] = weight @ probability / weight.sum()
    return found


def _months(days: pd.Series, start: pd.Timestamp) -> NDArray[np.int64]:
    return ((days.dt.year - start.year) * 12 + days.dt.month - start.month).to_numpy(np.int64)


def _draws(draws: int, months: int, graded: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Payers as the simulator draws them (population._leads): log-odds of the late regime by month, days' scale."""
    habit = np.empty((draws, months))
    habit[:, 0] = rng.standard_normal(draws) * HABIT_SHOCK / np.sqrt(1 - HABIT_PERSISTENCE**2)
    for month in range(1, months):
        habit[:, month] = HABIT_PERSISTENCE * habit[:, month - 1] + HABIT_SHOCK * rng.standard_normal(draws)
    level = -1.0 + 1.15 * rng.standard_normal(draws)
    slope = np.where(rng.random(draws) < 0.3, 0.45 * rng.standard_normal(draws), 0.0)
    years = (np.arange(months) - graded) / 12 + 1.0
    return level[:, None] + slope[:, None] * years + habit, np.exp(
        np.log(30.0) + 0.35 * rng.standard_normal(draws)
    )


def _log_likelihood(history: pd.DataFrame, regime: Floats, scale: Floats) -> Floats:
    """Of each draw: paid in time, paid so many days late, or still open after so many."""
    total = np.zeros(len(scale))
    for month, days, is_open in zip(history["month"], history["days"], history["is_open"], strict=True):
        late = -np.logaddexp(0, -regime[:, month])
        if is_open:
            total += late + np.log(NEVER_PAID_RATIO + (1 - NEVER_PAID_RATIO) * np.exp(-days / scale))
        elif days > 0:
            total += late - (days - 1) / scale - np.log(scale)
        else:
            total -= np.logaddexp(0, regime[:, month])
    return total


if __name__ == "__main__":
    main()
