"""What if customers were graded by another policy: the published month beside the same month graded otherwise.

Reads the month as published, grades it again with the settings changed, and shows who would move. Writes nothing.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clv import program
from clv.program import AsOf, ConfigPath, LogFormat, Overrides, step

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import Config


def compare(
    config: Config, as_of: date, models_run: str | None = None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Every customer's grade as published and by `config` (what_if.beside), and their figures (what_if.report).

    Scales are learned on the spot where the grading of the champions has none for what is asked.
    """
    from clv import champions, criteria, grades, ingest, month_facts, publish, tracking, warehouse, what_if
    from clv.contribution import price_lines

    with publish.reader(config) as read:
        published = what_if.published_month(read, as_of)
    month = publish.months_before(config, as_of)
    with warehouse.workspace_of(config) as db, step(f"{config.company}: grading {as_of} as asked"):
        store = tracking.open_store(config.company, config.mlflow.tracking_uri, config.mlflow.artifact_dir)
        champion = champions.load(store, champions.find(store, as_of, models_run))
        ingest.load(db, config, as_of)
        pricing = price_lines(db, config)
        measured = criteria.measure(db, as_of, config, pricing, champion.models)
        grading = champion.grading
        if what_if.needs_scales(measured, grading, config):
            grading = grades.fit_grading(measured, as_of, config.composite.scale)
        graded = grades.grade_customers(
            measured,
            grading,
            config,
            month.previous,
            grades.overrides_valid(db, as_of),
            policy_reset=month_facts.policy_resets(month.previous_policies, config)["tier_policy"],
            earlier=month.earlier,
        )
    both = what_if.beside(published, graded)
    return both, what_if.report(both, published, graded)


def main(
    config: ConfigPath,
    as_of: AsOf,
    report: Annotated[Path | None, typer.Option(help="Write the figures as JSON to this file.")] = None,
    models: Annotated[
        str | None, typer.Option(help="run:ID grades with the models of that training run.")
    ] = None,
    set_: Overrides = None,
    log_format: LogFormat = "text",
) -> None:
    """Compare the published month with the same month under other settings (--set): who moves, and money moved."""
    from clv.config import load

    program.start_logging(log_format)
    settings = load(config, set_ or ())
    run = program.models_run(models)

    from clv.console import show_comparison

    both, found = compare(settings, as_of.date(), run)
    if report is not None:
        program.write_text(report, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    show_comparison(settings, both, found)


if __name__ == "__main__":
    program.run(main)
