"""Shapes of the lifetime-value model beside each other, over rolling origins: mean normalised Gini of each.

python benchmarks/value_shapes.py --config configs/cdnow.yaml --as-of 1998-01-01 --origins 5 --horizon-days 180
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from clv import ingest, metrics
from clv.config import Config, load
from clv.contribution import price_lines
from clv.errors import ModelError
from clv.learn.value import Histories, histories, with_outcome
from clv.models.attributes import AttributeEncoder
from clv.models.boosting import train_trees
from clv.models.value_parts import BuyTillYouDie, Trees
from clv.models.value_training import fit_btyd, parameters
from clv.period import Horizon, add_months
from clv.warehouse import workspace_of

Floats = NDArray[np.float64]

SNAPSHOTS = 8
BEST = {"extra_trees": False}
# Name -> what differs from the model: LightGBM's parameters, rounds, seeds, snapshots, the purchase model behind it.
SHAPES: dict[str, dict[str, Any]] = {
    "random splits": {},
    "random splits, three seeds": {"seeds": 3},
    "random splits, 400 rounds": {"rounds": 400},
    "random splits, up to 8 snapshots": {"snapshots": SNAPSHOTS},
    "random splits, Pareto/NBD": {"purchases": "pareto_nbd"},
    "best splits": {"parameters": BEST},
    "best splits, three seeds": {"parameters": BEST, "seeds": 3},
    "best splits, up to 8 snapshots": {"parameters": BEST, "snapshots": SNAPSHOTS},
    "best splits, Pareto/NBD": {"parameters": BEST, "purchases": "pareto_nbd"},
}


def main(
    config: Annotated[Path, typer.Option(help="The company's YAML file.")],
    as_of: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="The last origin.")],
    origins: Annotated[int, typer.Option(min=1, help="How many, going back.")] = 3,
    step_months: Annotated[int, typer.Option(min=1, help="Months between them.")] = 1,
    horizon_days: Annotated[int, typer.Option(min=1, help="Days ahead.")] = 180,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting.")] = None,
) -> None:
    """Fit every shape at every origin and judge it on what then happened."""
    settings = load(config, [*(set_ or ()), f"lifetime_value.snapshots={SNAPSHOTS}"])
    horizon = Horizon(days=horizon_days)
    ginis: list[dict[str, float]] = []
    for i in range(origins):
        origin = add_months(as_of.date(), -step_months * i)
        try:
            ginis.append(_judged(settings, origin, horizon))
        except ModelError as error:
            Console().print(f"{origin}: {error}")
    table = Table(title=f"{settings.company}, {len(ginis)} origins to {as_of.date()}, {horizon_days} days")
    table.add_column("forecast")
    for heading in ("mean Gini", "lowest", "highest"):
        table.add_column(heading, justify="right")
    for name, column in pd.DataFrame(ginis).items():
        table.add_row(str(name), *(f"{figure:.4f}" for figure in (column.mean(), column.min(), column.max())))
    Console().print(table)


def _judged(config: Config, origin: date, horizon: Horizon) -> dict[str, float]:
    """Normalised Gini of every forecast made at `origin`."""
    with workspace_of(config) as db, workspace_of(config) as future:
        ingest.load(db, config, origin)
        basis = price_lines(db, config).basis
        ingest.load(future, config, horizon.after(origin))
        price_lines(future, config)
        found = histories(db, origin, config, basis=basis, horizon=horizon)
        then = with_outcome(future, found.present, origin, horizon, config, basis)
    realised = then["realised_contribution"].to_numpy(np.float64)
    forecasts = {"last_period": found.present["value_365"].to_numpy(np.float64)}
    models = {
        name: _purchases(found, horizon.length_days(origin), config, name) for name in ("bgnbd", "pareto_nbd")
    }
    forecasts |= {name: model.value(found.present) for name, model in models.items() if model is not None}
    for name, shape in SHAPES.items():
        forecasts[name] = _forecast(found, models[shape.get("purchases", "bgnbd")], config, shape)
    return {name: metrics.normalised_gini(realised, forecast) for name, forecast in forecasts.items()}


def _purchases(found: Histories, days: int, config: Config, name: str) -> BuyTillYouDie | None:
    settings = config.lifetime_value.model_copy(update={"purchase_model": name})
    return fit_btyd(found.present, days, config.model_copy(update={"lifetime_value": settings}), 0.0)[0]


def _forecast(
    found: Histories, purchases: BuyTillYouDie | None, config: Config, shape: dict[str, Any]
) -> Floats:
    days = np.sort(found.training["snapshot_date"].unique())[::-1][: shape.get("snapshots", 4)]
    rows = found.training[found.training["snapshot_date"].isin(days)]
    rows = rows.sort_values(["snapshot_date", "customer_id"], ignore_index=True)
    label = np.maximum(rows["realised_value"].to_numpy(np.float64), 0)
    trees = Trees("", 0.0, AttributeEncoder.fit(found.present, config.known_at_first_contact), purchases)
    settings = parameters(config, trees.players, small=False) | shape.get("parameters", {})
    rounds = shape.get("rounds", config.lifetime_value.rounds)
    inputs, present = trees.inputs(rows), trees.inputs(found.present)
    raw = [
        train_trees(
            inputs, label / label.mean(), settings, rounds, config.seed + i, config.engine.threads
        ).predict(present, raw_score=True, num_threads=1)
        for i in range(shape.get("seeds", 1))
    ]
    return np.asarray(np.exp(np.mean(raw, axis=0)))


if __name__ == "__main__":
    typer.run(main)
