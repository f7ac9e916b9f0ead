"""Are reasons faithful: does taking a reason's facts to the reference customer's move the score as the reason says?

For every reason shown of a month, all inputs of its concept are set to the reference customer's, the model predicts
again, and the criterion is scored again. A reason that is not faithful is either `still` (the score does not move, as
at the end of its scale, where other reasons keep it) or `against` (inputs interact: the mean over coalitions has
another sign than this one step). Needs the models of a training on or before the date (`make run`).

    python benchmarks/faithfulness.py [--config configs/demo.yaml] [--as-of 2026-01-01] [--set key=value]
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import expit

from clv import champions, criteria, explain, grades, ingest, points, tracking, warehouse
from clv.champions import Champions
from clv.config import Config, load
from clv.contribution import price_lines
from clv.criteria import Measured
from clv.evidence import NOBODY
from clv.models.payment_delay import PaymentDelay
from clv.models.payment_features import NAMES, design
from clv.points import Points

Floats = NDArray[np.float64]
LISTED = 20
SMALLEST_MOVE = 1e-9
VERDICTS = ("faithful", "still", "against")


@dataclass(frozen=True)
class Month:
    """What a month's reasons are made from."""

    config: Config
    champion: Champions
    measured: Measured


def scores_without(month: Month, part: Points, columns: list[int]) -> Floats:
    """Scores of a criterion, a row per row of `part`, with the inputs `columns` at the reference customer's."""
    models, scale = month.champion.models, month.champion.grading.scales.get(part.criterion)
    facts = part.facts.copy()
    facts[:, columns] = part.reference[:, columns]
    if part.criterion == "prospect" and models.prospect_value is not None and scale is not None:
        prospect, X = models.prospect_value, facts[:, :-1]
        score = scale.score(expit(prospect.conversion.raw(X)) * np.exp(prospect.value.raw(X)))
        judged = np.isfinite(part.facts[:, -1]) & (part.players[-1].concept not in _concepts(part, columns))
        weight = month.config.prospect.judgement_weight_ratio
        return np.where(judged, score + weight * (part.facts[:, -1] - score), score)
    if len(part.players) == 1 or scale is None:
        return np.full(len(facts), part.baseline)
    if part.criterion == "payment" and isinstance(models.payment_delay, PaymentDelay):
        model, rows = models.payment_delay, month.measured.payment_rows
        X = design(rows, model.shrinkages).to_numpy(np.float64)
        X[:, columns] = model.reference[columns]
        raw = model.late.predict(X, raw_score=True, num_threads=1) + model.logit_shift
        chance = np.where(X[:, NAMES.index("overdue_days")] > model.late_after_days, 1.0, expit(raw))
        risk = pd.Series(chance * rows["weight"].to_numpy(np.float64)).groupby(rows["customer_id"].to_numpy())
        return scale.score(risk.sum().reindex(month.measured.customers["customer_id"]).to_numpy())
    value = models.lifetime_value
    inputs = len(value.players)
    return scale.score(value.money(value.part.raw(facts[:, :inputs])) - facts[:, inputs:].sum(axis=1))


def _concepts(part: Points, columns: list[int]) -> set[str]:
    return {part.players[i].concept for i in columns}


def checked(month: Month, part: Points, reasons: pd.DataFrame, place: dict[str, int]) -> pd.DataFrame:
    """The shown `reasons` of one criterion with what the score loses without each (`moved`, in its own points)."""
    found = []
    for concept, told in reasons.groupby("concept"):
        columns = [i for i, player in enumerate(part.players) if player.concept == concept]
        rows = told["customer_id"].map(place).to_numpy(np.intp)
        without = scores_without(month, part, columns)[rows]
        score = part.baseline + part.points[rows].sum(axis=1)
        own = part.points[np.ix_(rows, columns)].sum(axis=1)
        found.append(told.assign(moved=score - without, own=own))
    return pd.concat(found, ignore_index=True)


def of_month(month: Month) -> pd.DataFrame:
    """Every reason shown of the month's customers and prospects, with `moved`, and whether it is `faithful`."""
    grading, config, measured = month.champion.grading, month.config, month.measured
    customers = grades.grade_customers(measured, grading, config, NOBODY, NOBODY, policy_reset=True)
    leads = grades.grade_prospects(
        measured, grading, config, NOBODY, NOBODY, grading.trained_as_of, policy_reset=True
    )
    of_customers = points.of_customers(measured, month.champion.models, grading, config.standards)
    of_prospects = points.of_prospects(measured, month.champion.models, grading, config)
    found = []
    for graded, criteria_points in ((customers, of_customers), (leads, of_prospects)):
        reasons = explain.reasons(graded, criteria_points, config)
        place = {customer: i for i, customer in enumerate(graded.frame["customer_id"])}
        for part in criteria_points:
            shown = reasons[reasons["criterion"] == part.criterion]
            if len(shown):
                found.append(checked(month, part, shown, place))
    result = pd.concat(found, ignore_index=True)
    moved, said = result["moved"].to_numpy(np.float64), result["points"].to_numpy(np.float64)
    stands = np.abs(moved) < SMALLEST_MOVE
    verdict = np.where(np.sign(moved) == np.sign(said), "faithful", np.where(stands, "still", "against"))
    return result.assign(verdict=verdict)


def main(
    config: Annotated[Path, typer.Option(help="The company.")] = Path("configs/demo.yaml"),
    as_of: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])] = datetime(2026, 1, 1),
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
) -> None:
    """Count the reasons of a month that are faithful, by criterion, and list those that are not."""
    day, settings = as_of.date(), load(config, set_ or ())
    store = tracking.open_store(settings.company, settings.mlflow.tracking_uri, settings.mlflow.artifact_dir)
    champion = champions.load(store, champions.find(store, day))
    with warehouse.workspace_of(settings) as db:
        ingest.load(db, settings, day)
        measured = criteria.measure(db, day, settings, price_lines(db, settings), champion.models)
    found = of_month(Month(settings, champion, measured))
    console = Console()
    table = Table(title=f"{settings.company}, reasons as of {day}")
    for heading in ("criterion", "reasons", *VERDICTS, "share"):
        table.add_column(heading, justify="left" if heading == "criterion" else "right")
    for name, told in [*found.groupby("criterion"), ("all", found)]:
        counts = [int((told["verdict"] == verdict).sum()) for verdict in VERDICTS]
        cells = [f"{count:,}" for count in (len(told), *counts)]
        table.add_row(str(name), *cells, f"{counts[0] / len(told):.3%}")
    console.print(table)
    odd = found[found["verdict"] != "faithful"].sort_values("moved", key=np.abs, ascending=False)
    for row in odd.head(LISTED).itertuples():
        console.print(
            f"{row.verdict}: {row.criterion} / {row.concept}: said {row.own:+.3f}, its removal {row.moved:+.3f} "
            f"points of the criterion. {row.sentence}",
            markup=False,
        )
    console.print(f"{len(odd)} not faithful, the largest {min(len(odd), LISTED)} listed.")


if __name__ == "__main__":
    typer.run(main)
