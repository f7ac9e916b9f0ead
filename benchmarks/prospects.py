"""The prospect model on real leads, and on invented companies beside the best that their attributes allow.

`bank`: 4,119 leads of a bank in the order of its calls (blocks of emp.var.rate); learned from the first blocks, judged
on all later ones, at several cuts. Left out are `duration` (known after the call), `campaign` (calls made in this
campaign: the bank's decision), age and marital status (protected), and figures of the whole economy, which are the
same for every lead of a block. Data: CLV_DATA_DIR.

`company`: invented companies of 2,000 customers and 400 prospects. True values differ between leads by far more than
their attributes tell: some prospects are worth a hundred times the typical one and look like the others. The `best
estimate` is what can be known: gradient boosting on the true expectations of 400,000 leads drawn by the same laws from
another seed. Beside the truth, forecasts are held against it.

    python benchmarks/prospects.py bank
    python benchmarks/prospects.py company [--seeds 7 8 9]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import brier_score_loss, log_loss

from clv import ingest, learn, metrics, period, truth, warehouse
from clv.config import Config, load
from clv.contribution import price_lines
from clv.models.prospect_value import ProspectValue, baselines
from clv.simulate import catalogue, population, simulate, trade
from clv.simulate import truth as expectations
from clv.simulate.block import STANDING_RATIO
from clv.simulate.timeline import Timeline, generator

Floats = NDArray[np.float64]
BLOCKS = (1.1, 1.4, -0.1, -0.2, -1.8, -2.9, -3.4, -3.0, -1.7, -1.1)
CUTS = (3, 5, 7)  # blocks learned from
CATEGORIES = (
    "job",
    "education",
    "in_default",
    "housing",
    "loan",
    "contact",
    "month",
    "day_of_week",
    "poutcome",
)
AS_OF, CUSTOMERS, PROSPECTS, HISTORY_MONTHS, FUTURE_MONTHS = date(2026, 1, 1), 2000, 400, 48, 6
DRAWN, DRAWN_SEED = 400_000, 20_260_101


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("bank", "company"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    asked = parser.parse_args()
    if asked.what == "bank":
        bank()
    else:
        companies(asked.seeds)


def bank_leads() -> tuple[pd.DataFrame, Floats, Config]:
    """The leads as prospect rows, the place of each one's block, and the declaration of their attributes."""
    folder = Path(os.environ.get("CLV_DATA_DIR", "../shared/data")) / "bank_marketing"
    calls = pd.read_csv(folder / "bank-additional.csv", sep=";").rename(columns={"default": "in_default"})
    block = calls["emp.var.rate"].map({rate: i for i, rate in enumerate(BLOCKS)}).to_numpy(np.float64)
    rows = calls[list(CATEGORIES)].assign(
        customer_id=[f"{i:05d}" for i in range(len(calls))],
        days_since_first_contact=1,
        snapshot_date=pd.Timestamp("2008-05-01") + pd.to_timedelta(30 * block, unit="D"),
        converted=calls["y"] == "yes",
        previous=calls["previous"].astype("float64"),
        reached_before=calls["pdays"] != 999,
    )
    kinds = dict.fromkeys(CATEGORIES, "category") | {"previous": "number", "reached_before": "flag"}
    config = Config.model_validate(
        {
            "company": "bank",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"table": "a.b"}, "customers": {"table": "a.c"}},
            "attributes": {name: {"type": kind, "known_at": "first_contact"} for name, kind in kinds.items()},
            "segment": ["contact"],
            "engine": {"threads": 1},
        }
    )
    return rows, block, config


def bank() -> None:
    rows, block, config = bank_leads()
    for cut in CUTS:
        learned, judged = rows[block < cut], rows[block >= cut].reset_index(drop=True)
        values = learned[learned["converted"]].assign(value=1.0)
        model = ProspectValue.fit(learned, values, config, 1, judged)
        forecasts = {"model": model.predict(judged)} | baselines(learned, values, config, judged)
        converted = judged["converted"].to_numpy(np.float64)
        title = (
            f"first {cut} blocks: {len(learned):,} leads, {learned['converted'].sum()} converted; judged on "
            f"{len(judged):,}, {converted.mean():.1%} converted"
        )
        show(
            title,
            {
                name: bank_figures(converted, forecast["conversion_probability"].to_numpy(np.float64))
                for name, forecast in forecasts.items()
            },
        )


def bank_figures(converted: Floats, probability: Floats) -> dict[str, str]:
    first = np.argsort(-probability, kind="stable")[: round(len(probability) / 10)]
    return {
        "AUC": f"{metrics.auc(converted, probability):.3f}",
        "lift of 10 %": f"{converted[first].mean() / converted.mean():.2f}",
        "log loss": f"{log_loss(converted, probability):.4f}",
        "Brier": f"{brier_score_loss(converted, probability):.4f}",
        "mean": f"{probability.mean():.1%}",
        "slope": f"{metrics.calibration_slope(converted, probability):.2f}",
    }


def companies(seeds: list[int]) -> None:
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="clv-benchmark-") as folder:
            path = Path(folder) / "demo.duckdb"
            simulate(path, customers=CUSTOMERS, prospects=PROSPECTS, seed=seed, threads=1)
            config = load("configs/demo.yaml", [f"warehouse.path={path}", "engine.threads=1"])
            with warehouse.workspace_of(config) as db:
                ingest.load(db, config, period.add_months(AS_OF, FUTURE_MONTHS))
                price_lines(db, config)
                known = truth.read(db, config, AS_OF).prospects
                rate = variable_cost_ratio(db)
                trial = learn.try_prospect_value(db, AS_OF, config, known_at=date(2026, 7, 1))
        company(f"seed {seed}", trial, known, BestEstimate(seed, rate))


def variable_cost_ratio(db: warehouse.Engine) -> float:
    """Freight and handling, which the simulator does not know, as a share of net sales."""
    [(rate,)] = db.rows("SELECT CAST(sum(variable_cost) / sum(net_amount) AS DOUBLE) FROM main.order_lines")
    return float(rate)


class BestEstimate:
    """E(true conversion probability | attributes, age) and E(true prospect value | attributes, age)."""

    def __init__(self, seed: int, variable_cost_ratio: float) -> None:
        timeline = Timeline(AS_OF, HISTORY_MONTHS, FUTURE_MONTHS)
        intercept = population.conversion_intercept(seed, timeline, CUSTOMERS, PROSPECTS)
        drawn = population.accounts(generator(DRAWN_SEED, "best"), timeline, 1, DRAWN, 0, intercept)
        as_of = timeline.month_day(0)
        waiting = (drawn.contact_time < as_of) & (drawn.conversion_time >= as_of)
        drawn = drawn.take(np.flatnonzero(waiting))
        revenue, margin = trade.expected_order(drawn, catalogue.products(seed))
        value = expectations.value_after_conversion(
            drawn, margin - variable_cost_ratio * revenue, STANDING_RATIO
        )
        chance = expectations.conversion_probability(drawn, as_of, 90)
        X = np.column_stack(
            [
                as_of - np.floor(drawn.contact_time),
                drawn.industry,
                drawn.region,
                np.where(drawn.employees_known, drawn.employees, np.nan),
                drawn.lead_source,
                drawn.web_visits,
                drawn.requested_quote,
            ]
        )
        self.chance = grown(X, chance, {"objective": "cross_entropy"})
        of_value = {"objective": "tweedie", "tweedie_variance_power": 1.3}
        self.value = grown(X, np.maximum(chance * value, 0.0), of_value)
        # Those below cost count as nothing for the trees; the mean is that of all.
        self.level = float((chance * value).sum() / np.maximum(self.value.predict(X), 0.0).sum())

    def forecast(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns as of a model's forecast of the prospects `rows`."""

        def places(name: str, words: Any) -> Floats:
            return rows[name].map({word: i for i, word in enumerate(words)}).to_numpy(np.float64)

        X = np.column_stack(
            [
                rows["days_since_first_contact"].to_numpy(np.float64),
                places("industry", catalogue.INDUSTRIES),
                places("region", catalogue.REGIONS),
                rows["employee_count"].astype("Float64").to_numpy(np.float64, na_value=np.nan),
                places("lead_source", catalogue.LEAD_SOURCES),
                rows["web_visits_before_contact"].to_numpy(np.float64),
                rows["requested_quote"].to_numpy(np.float64),
            ]
        )
        return pd.DataFrame(
            {
                "customer_id": rows["customer_id"].to_numpy(),
                "conversion_probability": self.chance.predict(X),
                "prospect_value": self.level * np.asarray(self.value.predict(X)),
            }
        )


def grown(X: Floats, y: Floats, parameters: Mapping[str, Any]) -> lgb.Booster:
    settings = {"learning_rate": 0.05, "num_leaves": 63, "min_data_in_leaf": 300, "num_threads": 1}
    fixed = {"seed": 1, "deterministic": True, "verbosity": -1}
    return lgb.train({**settings, **fixed, **parameters}, lgb.Dataset(X, y), 400)


def company(title: str, trial: learn.ProspectTrial, known: pd.DataFrame, best: BestEstimate) -> None:
    rows = trial.rows
    true = known.set_index("customer_id").loc[rows["customer_id"]]
    chance = true["conversion_probability_90d"].to_numpy(np.float64)
    value = true["expected_contribution_12m"].to_numpy(np.float64)
    estimate = best.forecast(rows)
    largest = value.max() / value.sum()
    table = {}
    for name, forecast in {"best estimate": estimate, **trial.predictions}.items():
        p, v = (forecast[c].to_numpy(np.float64) for c in ("conversion_probability", "prospect_value"))
        best_p, best_v = (
            estimate[c].to_numpy(np.float64) for c in ("conversion_probability", "prospect_value")
        )
        table[name] = {
            "P rank": f"{metrics.spearman(chance, p):.3f}",
            "mean P": f"{p.mean():.1%}",
            "P slope": f"{slope(p, best_p):.2f}",
            "value rank": f"{metrics.spearman(value, v):.3f}",
            "of the best's": f"{metrics.spearman(value, v) / metrics.spearman(value, best_v):.3f}",
            "rank to the best": f"{metrics.spearman(best_v, v):.3f}",
            "level": f"{v.sum() / value.sum() - 1:+.0%}",
            "to the best": f"{v.sum() / best_v.sum() - 1:+.0%}",
            "slope to the best": f"{slope(v, best_v):.2f}",
        }
    show(
        f"{title}: {len(rows)} prospects, truth {chance.mean():.1%} and {value.mean():,.0f} each, "
        f"{largest:.0%} of it in one; realised {trial.converted.mean():.1%}",
        table,
    )


def slope(forecast: Floats, true: Floats) -> float:
    """Of the straight line of truth on forecast; nan for a constant."""
    spread = forecast - forecast.mean()
    squares = float(spread @ spread)
    return float(spread @ true) / squares if squares > 1e-12 * float(forecast @ forecast) else float("nan")


def show(title: str, figures: Mapping[str, Mapping[str, str]]) -> None:
    table = Table(title=title)
    table.add_column("forecast")
    for heading in next(iter(figures.values())):
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        table.add_row(name, *row.values())
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
