"""Reasons for everyone, every month: contributions, points and sentences of the three models of a trained company.

Customers and prospects are drawn from the company's month (their money shaken by 10 %, so no two are alike) and go
through in blocks, as many as asked for. CPU seconds of one process; ratios to the plain prediction of the same models
on the same rows, and to `shap.TreeExplainer` (interventional, the same booster and reference row) on a few rows
without missing values; LightGBM's `pred_contrib` answers another question (path-dependent) and stands there for its
price. Needs the models of a training on or before the date (`make run`).

    python benchmarks/reasons.py [--customers 1000000] [--config configs/demo.yaml] [--as-of 2026-01-01]
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from clv import champions, criteria, drivers, explain, grades, ingest, points, tracking, warehouse
from clv.config import load
from clv.contribution import price_lines
from clv.criteria import Measured, Models
from clv.evidence import NOBODY
from clv.features import FEATURES
from clv.models.payment_delay import PaymentDelay
from clv.models.payment_features import design
from clv.models.shapley import TreeShapley, explainer
from clv.plots.drivers import load_shap

Floats = NDArray[np.float64]


class Clock:
    """CPU seconds spent under a name, and the rows that went through."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.rows: dict[str, int] = {}

    @contextmanager
    def of(self, name: str, rows: int) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started
        self.rows[name] = self.rows.get(name, 0) + rows

    def micros(self, name: str) -> float:
        return self.seconds[name] / self.rows[name] * 1e6


def drawn(measured: Measured, models: Models, n: int, n_prospects: int, rng: np.random.Generator) -> Measured:
    """So many customers and prospects like those measured, each with its invoices, under ids of their own."""
    picked = rng.integers(0, len(measured.customers), n)
    ids = np.char.add("C", np.char.zfill(np.arange(n).astype(str), 8))
    customers = measured.customers.iloc[picked].reset_index(drop=True)
    owner = pd.Series(ids, dtype=measured.customers["customer_id"].dtype)
    value = models.lifetime_value
    money = [feature.name for feature in FEATURES if feature.unit == "money"]
    shaken = customers[money].to_numpy(np.float64) * rng.lognormal(0, 0.1, (n, 1))
    customers = customers.assign(customer_id=owner, **dict(zip(money, shaken.T, strict=True)))
    rows = measured.payment_rows.reset_index(drop=True)
    by_customer = rows.groupby("customer_id").indices
    nothing = np.zeros(0, dtype=np.intp)
    of_each = [by_customer.get(name, nothing) for name in measured.customers["customer_id"]]
    places = [of_each[i] for i in picked]
    payment_rows = rows.iloc[np.concatenate(places)].reset_index(drop=True)
    payment_rows["customer_id"] = np.repeat(ids, [len(each) for each in places])
    leads = rng.integers(0, len(measured.prospects), n_prospects)
    prospects = measured.prospects.iloc[leads].reset_index(drop=True)
    prospects["customer_id"] = np.char.add("P", np.char.zfill(np.arange(n_prospects).astype(str), 8))
    return replace(
        measured,
        customers=customers,
        values=measured.values.iloc[picked]
        .reset_index(drop=True)
        .assign(lifetime_value=value.predict(customers)["value"].to_numpy(np.float64)),
        costs=measured.costs.iloc[picked].reset_index(drop=True),
        payment_rows=payment_rows,
        prospects=prospects,
        prospect_values=measured.prospect_values.iloc[leads].reset_index(drop=True),
    )


def predict_and_attribute(block: Measured, models: Models, clock: Clock) -> None:
    """The raw outputs of the models on their inputs, and the contributions to them: the same rows, the same matrix."""
    value, payment, prospect = models.lifetime_value, models.payment_delay, models.prospect_value
    customers, n = block.customers, len(block.customers)
    inputs = value.part.inputs(customers)
    reference = np.array([np.nan if x is None else x for x in value.reference])
    with clock.of("lifetime-value: prediction", n):
        value.part.raw(inputs)
    with clock.of("lifetime-value: contributions", n):
        value.part.attribute(inputs, reference)
    assert isinstance(payment, PaymentDelay)
    assert prospect is not None
    X = design(block.payment_rows, payment.shrinkages).to_numpy()
    with clock.of("payment-delay: prediction", len(X)):
        payment.late.predict(X, raw_score=True, num_threads=1)
    with clock.of("payment-delay: contributions", len(X)):
        explainer(payment.late, payment.reference).attribute(X)
    X = prospect.design(block.prospects).to_numpy(np.float64)
    with clock.of("prospect-value: prediction", len(X)):
        prospect.conversion.raw(X)
        prospect.value.raw(X)
    with clock.of("prospect-value: contributions", len(X)):
        prospect.conversion.attribute(X, prospect.reference)
        prospect.value.attribute(X, prospect.reference)


def beside_shap(models: Models, measured: Measured, rows: int) -> dict[str, tuple[float, ...]]:
    """Booster -> CPU µs a row of `shap`, of LightGBM's path-dependent values and of ours; the largest difference."""
    shap, found = load_shap(), {}
    for number, (name, booster, reference, inputs) in enumerate(drivers.boosters(models, measured)):
        filled = np.nan_to_num(reference)
        X = np.resize(np.where(np.isnan(inputs), filled, inputs), (rows, inputs.shape[1]))
        many = np.resize(X, (rows * 20, X.shape[1]))
        theirs = shap.TreeExplainer(booster, data=filled[None, :], feature_perturbation="interventional")
        ours = TreeShapley(booster, filled)
        slow = _best(lambda: theirs.shap_values(X, check_additivity=False)) / rows  # noqa: B023
        fast = _best(lambda: ours.attribute(many)) / len(many)  # noqa: B023
        path = _best(lambda: booster.predict(X, pred_contrib=True, num_threads=1)) / rows  # noqa: B023
        difference = np.abs(theirs.shap_values(X, check_additivity=False) - ours.attribute(X).phi).max()
        found[f"{name} ({number + 1})"] = slow * 1e6, path * 1e6, fast * 1e6, float(difference)
    return found


def _best(work: Callable[[], Any], repeats: int = 3) -> float:
    """CPU seconds of the fastest run: what other programs disturb least."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def main(
    customers: Annotated[int, typer.Option(help="How many customers.")] = 1_000_000,
    prospects: Annotated[int, typer.Option(help="How many prospects.")] = 1_000_000,
    block: Annotated[int, typer.Option(help="Rows that go through at once.")] = 50_000,
    sentences: Annotated[int, typer.Option(help="How many of each get sentences, at most.")] = 100_000,
    shap_rows: Annotated[int, typer.Option(help="Rows for shap.")] = 500,
    config: Annotated[Path, typer.Option(help="The company.")] = Path("configs/demo.yaml"),
    as_of: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])] = datetime(2026, 1, 1),
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
) -> None:
    """Time reasons beside predictions and beside `shap`."""
    day, settings = as_of.date(), load(config, set_ or ())
    store = tracking.open_store(settings.company, settings.mlflow.tracking_uri, settings.mlflow.artifact_dir)
    champion = champions.load(store, champions.find(store, day))
    models, grading = champion.models, champion.grading
    with warehouse.workspace_of(settings) as db:
        ingest.load(db, settings, day)
        measured = criteria.measure(db, day, settings, price_lines(db, settings), models)
    against = beside_shap(models, measured, shap_rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock, rng = Clock(), np.random.default_rng(7)
    peaks: list[int] = []
    for start in range(0, max(customers, prospects), block):
        sizes = [max(1, min(block, n - start)) for n in (customers, prospects)]
        some = drawn(measured, models, *sizes, rng)
        predict_and_attribute(some, models, clock)
        with clock.of("points of customers", sizes[0]):
            of_customers = points.of_customers(some, models, grading, settings.standards)
        with clock.of("points of prospects", sizes[1]):
            of_prospects = points.of_prospects(some, models, grading, settings)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        if start < sentences:
            graded = grades.grade_customers(some, grading, settings, NOBODY, NOBODY, policy_reset=True)
            leads = grades.grade_prospects(some, grading, settings, NOBODY, NOBODY, day, policy_reset=True)
            with clock.of("sentences of customers", sizes[0]):
                explain.reasons(graded, of_customers, settings)
            with clock.of("sentences of prospects", sizes[1]):
                explain.reasons(leads, of_prospects, settings)
    report(clock, against, before, peaks, Console())


def report(
    clock: Clock,
    against: dict[str, tuple[float, ...]],
    before: int,
    peaks: list[int],
    console: Console,
) -> None:
    table = Table(title="CPU of one process")
    for heading in ("work", "rows", "µs a row", "rows a second", "÷ prediction"):
        table.add_column(heading, justify="left" if heading == "work" else "right")
    for name, rows in clock.rows.items():
        base = f"{name.partition(':')[0]}: prediction"
        ratio = f"{clock.micros(name) / clock.micros(base):.2f}" if base in clock.seconds else ""
        table.add_row(
            name, f"{rows:,}", f"{clock.micros(name):.1f}", f"{1e6 / clock.micros(name):,.0f}", ratio
        )
    console.print(table)
    spent = clock.seconds
    predicted = sum(seconds for name, seconds in spent.items() if name.endswith("prediction"))
    explained = spent["points of customers"] + spent["points of prospects"]
    console.print(
        f"Contributions and points of everyone: {explained:.0f} s, {explained / predicted:.2f} × plain prediction of "
        f"the same rows."
    )
    console.print(
        f"Peak memory {peaks[-1] / 2**20:.2f} GB ({before / 2**20:.2f} before the first block, "
        f"{peaks[0] / 2**20:.2f} after it)."
    )
    beside = Table(title="beside shap.TreeExplainer, interventional, rows without missing values")
    for heading in ("booster", "shap µs a row", "pred_contrib", "ours", "shap ÷ ours", "largest difference"):
        beside.add_column(heading, justify="left" if heading == "booster" else "right")
    for name, (slow, path, fast, difference) in against.items():
        beside.add_row(
            name, f"{slow:.1f}", f"{path:.1f}", f"{fast:.2f}", f"{slow / fast:.1f}", f"{difference:.1e}"
        )
    console.print(beside)


if __name__ == "__main__":
    typer.run(main)
