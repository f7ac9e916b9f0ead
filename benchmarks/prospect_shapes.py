"""How a prospect's value is best put together, over rolling origins of invented companies before the date that judges.

Formulations, judged by what the prospects then brought (normalised Gini) and by the rank and level they have beside the
best estimate from the attributes (benchmarks/prospects.py): P x V, P alone, and one Tweedie model over all prospects
(0 where nobody bought), which needs snapshots whose conversion window and year of value have both ended.
Shapes of the conversion model: log loss of the conversions.

    python benchmarks/prospect_shapes.py [--seeds 7 8 9]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import log_loss

from clv import ingest, metrics, warehouse
from clv.config import Config, load
from clv.contribution import price_lines
from clv.learn.prospect import training_tables
from clv.models.attributes import AttributeEncoder
from clv.models.boosting import train_trees
from clv.models.level_effects import LevelEffects
from clv.models.links import Link, logistic, logit_shift, tweedie_regression
from clv.models.prospect_parts import CONVERSION, VALUE, Inputs, exp_value, exposures
from clv.models.prospect_value import ProspectValue
from clv.period import see
from clv.prospects import conversion_values, prospect_outcomes, prospect_rows
from clv.simulate import simulate
from prospects import AS_OF, CUSTOMERS, PROSPECTS, BestEstimate, show, slope, variable_cost_ratio

Floats = NDArray[np.float64]
OF_VALUE = (date(2024, 4, 1), date(2024, 7, 1), date(2024, 10, 1))  # their prospects' year has ended by AS_OF
OF_CONVERSION = (*OF_VALUE, date(2025, 1, 1), date(2025, 4, 1), date(2025, 7, 1), date(2025, 10, 1))
SHAPES: dict[str, dict[str, Any]] = {
    "2 leaves x 150": {"num_leaves": 2, "rounds": 150},
    "2 leaves x 300": {"num_leaves": 2, "rounds": 300},
    "4 leaves x 100": {"num_leaves": 4, "rounds": 100},
    "4 leaves x 200": {"num_leaves": 4, "rounds": 200},
    "4 leaves x 200, age falls": {"num_leaves": 4, "rounds": 200, "age": -1},
    "7 leaves x 200": {"num_leaves": 7, "rounds": 200},
    "11 leaves x 200": {"num_leaves": 11, "rounds": 200},
}


@dataclass(frozen=True)
class Origin:
    """What was known at a date, and what its prospects then did."""

    day: date
    rows: pd.DataFrame
    values: pd.DataFrame
    present: pd.DataFrame
    then: pd.DataFrame  # prospect_outcomes with `value`, that of those who converted in time


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    formulations, shapes = [], []
    for seed in parser.parse_args().seeds:
        with tempfile.TemporaryDirectory(prefix="clv-benchmark-") as folder:
            path = Path(folder) / "demo.duckdb"
            simulate(path, customers=CUSTOMERS, prospects=PROSPECTS, seed=seed, threads=1)
            config = load("configs/demo.yaml", [f"warehouse.path={path}", "engine.threads=1"])
            with warehouse.workspace_of(config) as db:
                ingest.load(db, config, AS_OF)
                price_lines(db, config)
                best = BestEstimate(seed, variable_cost_ratio(db))
                for origin in origins(db, config):
                    shapes.append(of_shapes(origin, config))
                    if origin.day in OF_VALUE:
                        formulations.append(of_formulations(origin, best, config))
    report(f"Formulations, {len(formulations)} origins", formulations)
    report(f"Shapes of the conversion model, {len(shapes)} origins", shapes)


def origins(db: warehouse.Engine, config: Config) -> Iterator[Origin]:
    settings = config.prospect
    rate = config.lifetime_value.discount_rate_annual_ratio
    see(db, AS_OF)
    later = conversion_values(db, AS_OF, settings.value_months, rate).set_index("customer_id")["value"]
    for day in OF_CONVERSION:
        see(db, day)
        rows, values = training_tables(db, day, config)
        present = prospect_rows(db, day)
        then = prospect_outcomes(db, day, settings.conversion_days, AS_OF)
        bought = then["converted"].to_numpy(np.float64)
        then["value"] = bought * then["customer_id"].map(later).fillna(0.0).to_numpy(np.float64)
        yield Origin(day, rows, values, present, then)


def of_formulations(origin: Origin, best: BestEstimate, config: Config) -> dict[str, dict[str, float]]:
    """NAME -> figures of the forecasts of value."""
    forecast = ProspectValue.fit(origin.rows, origin.values, config, 1, origin.present).predict(origin.then)
    made = {
        "P x V": forecast["prospect_value"].to_numpy(np.float64),
        "P x mean value": forecast["conversion_probability"].to_numpy(np.float64)
        * float(origin.values["value"].mean()),
        **one_tweedie(origin, config),
    }
    known = best.forecast(origin.then)["prospect_value"].to_numpy(np.float64)
    realised = origin.then["value"].to_numpy(np.float64)
    return {
        name: {
            "Gini": metrics.normalised_gini(realised, value),
            "rank to the best": metrics.spearman(known, value),
            "level to the best": value.sum() / known.sum() - 1,
            "slope to the best": slope(value, known),
        }
        for name, value in {"best estimate": known, **made}.items()
    }


def one_tweedie(origin: Origin, config: Config) -> dict[str, Floats]:
    """One model of money over all prospects: trees, regression, and their mean, each meeting its training total."""
    ended = timedelta(days=config.prospect.conversion_days + 366)
    rows = origin.rows[origin.rows["snapshot_date"] + ended <= pd.Timestamp(origin.day)]
    brought = rows["customer_id"].map(origin.values.set_index("customer_id")["value"]).fillna(0.0)
    money = rows["converted"].to_numpy(np.float64) * brought.to_numpy(np.float64)
    inputs = plain_inputs(rows, config)
    X, asked, relative = inputs.matrix(rows), inputs.matrix(origin.then), money / money.mean()
    trees = train_trees(X, relative, VALUE, 120, config.seed, 1)
    linear = tweedie_regression(X, relative, inputs.features)
    made = {}
    for name, link in {
        "one Tweedie, mean of both": Link(trees, linear, 0.0),
        "one Tweedie, regression": Link(None, linear, 0.0),
        "one Tweedie, trees": Link(trees, None, 0.0),
    }.items():
        made[name] = exp_value(link.raw(asked)) * money.mean() / exp_value(link.raw(X)).mean()
    return made


def of_shapes(origin: Origin, config: Config) -> dict[str, dict[str, float]]:
    """NAME -> log loss of the mean with logistic regression, and of the trees alone."""
    rows, inputs = origin.rows, plain_inputs(origin.rows, config)
    X, asked = inputs.matrix(rows), inputs.matrix(origin.then)
    converted, then = (frame["converted"].to_numpy(np.float64) for frame in (rows, origin.then))
    linear = logistic(X, converted, inputs.features, exposures(rows))

    def loss(link: Link) -> float:
        shift = logit_shift(link.raw(X), float(converted.mean()))
        return float(log_loss(then, np.clip(expit(link.raw(asked) + shift), 1e-9, 1 - 1e-9)))

    found = {"logistic regression": {"log loss": loss(Link(None, linear, 0.0))}}
    for name, shape in SHAPES.items():
        monotone = [shape.get("age", 0)] + [0] * (X.shape[1] - 1)
        settings = CONVERSION | {"num_leaves": shape["num_leaves"], "monotone_constraints": monotone}
        trees = train_trees(X, converted, settings, shape["rounds"], config.seed, 1)
        found[name] = {
            "log loss": loss(Link(trees, linear, 0.0)),
            "trees alone": loss(Link(trees, None, 0.0)),
        }
    return found


def plain_inputs(rows: pd.DataFrame, config: Config) -> Inputs:
    people = rows.drop_duplicates("customer_id", keep="last")
    encoder = AttributeEncoder.fit(people, config.known_at_first_contact)
    return Inputs(encoder, LevelEffects({}), LevelEffects({}))


def report(title: str, found: list[dict[str, dict[str, float]]]) -> None:
    """Means over the origins."""
    means: Mapping[str, Mapping[str, float]] = {
        name: pd.DataFrame([figures[name] for figures in found]).mean().to_dict() for name in found[0]
    }
    headings = list(dict.fromkeys(heading for row in means.values() for heading in row))
    show(
        title,
        {
            name: {heading: f"{row[heading]:.4f}" if heading in row else "" for heading in headings}
            for name, row in means.items()
        },
    )


if __name__ == "__main__":
    main()
