"""Speed of the buy-till-you-die engine: fits and 12-month values as ratios to plain `lifetimes`, one core.

Invented customers of 1 to 4 years: gamma purchase rates (mean one in 86 days, before leaving), beta chances to leave,
whole days, gamma-gamma order values. `lifetimes` is used as its manual says: one row per customer, its own discounted
loop. Pareto/NBD has no counterpart there: its fitter is a simplex over 2F1 that turns to NaN.

    python benchmarks/btyd.py [--customers 1000000]
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from clv.models import btyd, gamma_gamma
from clv.models.bg_nbd import BgNBD
from clv.models.lifetimes_guess import lifetimes

Floats = NDArray[np.float64]
Answer = TypeVar("Answer")
RATE = 0.10  # a year, effective


def simulate(n: int, rng: np.random.Generator) -> tuple[Floats, ...]:
    """Repeat purchase days, recency, T, number of orders, mean order value."""
    T = rng.integers(365, 4 * 365 + 1, n)
    rate, chance_to_leave = np.maximum(rng.gamma(0.7, 1 / 60, n), 1e-12), rng.beta(0.8, 4.0, n)
    repeats, last = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    who, now = np.arange(n), np.zeros(n)
    while len(who):
        now = now + rng.exponential(1 / rate[who])
        who, now = who[now < T[who]], now[now < T[who]]
        day = np.ceil(now).astype(np.int64)
        repeats[who] += day > last[who]
        last[who] = day
        stays = rng.random(len(who)) >= chance_to_leave[who]
        who, now = who[stays], now[stays]
    count = repeats + 1.0
    mean = np.round(rng.gamma(6.0 * count, 1 / (rng.gamma(4.0, 1 / 80, n) * count)), 2) + 0.01
    return repeats.astype(np.float64), last.astype(np.float64), T.astype(np.float64), count, mean


def timed(work: Callable[[], Answer]) -> tuple[float, Answer]:
    """CPU seconds of one run, and what it gave."""
    start = time.process_time()
    answer = work()
    return time.process_time() - start, answer


def main(
    customers: Annotated[int, typer.Option(help="How many to simulate.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 7,
) -> None:
    """Fit and value the same customers by both, in this process."""
    x, recency, T, count, mean = simulate(customers, np.random.default_rng(seed))
    with threadpool_limits(1):
        with lifetimes() as package:  # imported, so that neither side is charged for it
            series = [pd.Series(column) for column in (x, recency, T, mean)]
            purchases, values = package.BetaGeoFitter(), package.GammaGammaFitter()
            their_fit = [timed(lambda: purchases.fit(x, recency, T)), timed(lambda: values.fit(count, mean))]
            monthly = (1 + RATE) ** (1 / 12) - 1
            their_value, theirs = timed(
                lambda: values.customer_lifetime_value(purchases, *series, time=12, discount_rate=monthly)
            )
        our_fit, model = timed(lambda: btyd.fit(x, recency, T, count, mean))
        our_value, ours = timed(
            lambda: (
                model.discounted_purchases(x, recency, T, 365, RATE) * model.expected_order_value(count, mean)
            )
        )
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pareto, _ = timed(lambda: btyd.fit(x, recency, T, count, mean, purchase_model="pareto_nbd"))
        auto, chosen = timed(lambda: btyd.fit(x, recency, T, count, mean, purchase_model="auto"))
        memory_after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    table = Table(
        title=f"{customers:,} customers, {int(x.sum()):,} repeat purchases, CPU seconds on one core"
    )
    for heading in ("work", "lifetimes", "clv", "ratio"):
        table.add_column(heading, justify="left" if heading == "work" else "right")
    plain = sum(seconds for seconds, _ in their_fit)
    for work, before, after in (
        ("fit BG/NBD and Gamma-Gamma", plain, our_fit),
        ("12-month discounted value", their_value, our_value),
        ("fit Pareto/NBD and Gamma-Gamma", None, pareto),
        ("choose a model (auto), fit it and Gamma-Gamma", None, auto),
    ):
        shown = ("–", f"{after:.2f}", "–")
        if before is not None:
            shown = f"{before:.2f}", f"{after:.2f}", f"{before / after:.0f}"
        table.add_row(work, *shown)
    console = Console()
    console.print(table)
    their_model = BgNBD(**purchases.params_)
    likelihoods = [model.log_likelihood(x, recency, T).sum(), their_model.log_likelihood(x, recency, T).sum()]
    of_values = [
        gamma_gamma.log_likelihood(np.array(params), count, mean).sum()
        for params in (list(model.value_params.values()), list(values.params_))
    ]
    for name, (our, their) in (("BG/NBD", likelihoods), ("Gamma-Gamma", of_values)):
        console.print(
            f"{name}: log-likelihood {our:,.4f}, above lifetimes' by {(our - their) / abs(their):.1e}."
        )
    console.print(
        f"Verdict: {model.verdict}. Total value {ours.sum():,.0f}, by lifetimes {theirs.sum():,.0f}."
    )
    console.print(f"Pareto/NBD: {pareto / customers * 1e6:.1f} CPU µs a customer. Auto: {chosen.verdict}.")
    console.print(
        f"Peak memory {memory:,.0f} MB after lifetimes and BG/NBD, {memory_after:,.0f} MB at the end."
    )


if __name__ == "__main__":
    typer.run(main)
