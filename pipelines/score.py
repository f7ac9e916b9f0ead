"""Champion models -> published tables: one month from the company's facts to tiers with reasons."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from clv import program
from clv.program import AsOf, ConfigPath, LogFormat, Overrides, step

if TYPE_CHECKING:
    from clv import champions, changes, publish, tracking
    from clv.config import Config
    from clv.publish import Receipt


def score(config: Config, as_of: date, models_run: str | None = None) -> Receipt:
    """Grade everybody known before `as_of` and publish the month; says what was published."""
    import pandas as pd

    from clv import (
        champions,
        changes,
        criteria,
        evidence,
        explain,
        grades,
        ingest,
        month_facts,
        outlook,
        paths,
        points,
        prospect_month,
        publish,
        tracking,
        warehouse,
    )
    from clv.contribution import price_lines, unassigned

    with publish.month(config, as_of) as month, warehouse.workspace_of(config) as db:
        with step(f"{config.company}: loading the models for {as_of}"):
            store = tracking.open_store(
                config.company, config.mlflow.tracking_uri, config.mlflow.artifact_dir
            )
            champion = champions.load(store, champions.find(store, as_of, models_run))

        with step(f"reading what was known before {as_of}"):
            loaded = ingest.load(db, config, as_of)
            pricing = price_lines(db, config)

        with step("measuring every standard"):
            known = criteria.known(db, as_of, config, pricing, champion.models)
            measured = criteria.judge(known, config, pricing, champion.models)
            overrides = grades.overrides_valid(db, as_of)

        with step("grading customers and prospects"):
            reset = month_facts.policy_resets(month.previous_policies, config)
            customers = grades.grade_customers(
                measured,
                champion.grading,
                config,
                month.previous,
                overrides,
                policy_reset=reset["tier_policy"],
                earlier=month.earlier,
            )
            prospects = grades.grade_prospects(
                measured,
                champion.grading,
                config,
                month.previous,
                overrides,
                as_of,
                policy_reset=reset["prospect_tier_policy"],
            )

        with step("looking at the month's prospects as a whole"):
            found = publish.facts_of_training(config, champion.mlflow_run_id)
            of_month = prospect_month.prospect_month(prospects, champion.grading, config, found)

        with step("explaining every grade"):
            of_customers = points.of_customers(measured, champion.models, champion.grading, config.standards)
            of_prospects = points.of_prospects(measured, champion.models, champion.grading, config)
            reasons = [
                explain.reasons(customers, of_customers, config),
                explain.reasons(prospects, of_prospects, config),
            ]

        with step("telling what changed since the month before"):
            before, gone = month_before(config, store, month, champion)
            moved = changes.changes(
                db,
                before,
                (customers, prospects),
                (of_customers, of_prospects),
                known,
                champion,
                config,
                pricing,
                policy_reset=reset,
            )

        with step("looking for what would take customers to the next tier"):
            leading = paths.paths(db, as_of, customers, measured, champion, config, pricing)
            customers = paths.with_potential(customers, leading, config)

        with step("publishing, all of it or nothing"):
            tables = {
                "grades": [
                    grades.grades_table(g, champion.versions, pricing.basis) for g in (customers, prospects)
                ],
                "criteria": [grades.criteria_table(g, measured) for g in (customers, prospects)],
                "reasons": reasons,
                "changes": [moved],
                "paths": [leading],
                "tier_summary": [grades.tier_summary(g) for g in (customers, prospects)],
                "month_facts": [
                    month_facts.month_facts(
                        customers,
                        measured,
                        unassigned(db, as_of),
                        champion.models.lifetime_value,
                        config,
                        previous=month.previous,
                        overrides=overrides,
                    ),
                    of_month.facts,
                ],
                "value_outlook": [outlook.value_outlook(measured, champion.models, config)],
                "invoice_outlook": [outlook.invoice_outlook(measured, champion.models, config)],
                "rejected_rows": [ingest.rejected_rows(db)],
            }
            receipt = publish.publish(
                config,
                month,
                tables,
                expected_counts=customers.expected_counts | prospects.expected_counts,
                mlflow_run_id=champion.mlflow_run_id,
                why=measured.why() | {"notes": [*loaded.notes, *gone], "models": models_run or "champions"},
            )

        if receipt.status == "published":
            with step("logging the month in MLflow"):
                facts, summary = (pd.concat(tables[name]) for name in ("month_facts", "tier_summary"))
                tags = {"run_id": receipt.run_id, "training_run_id": champion.mlflow_run_id}
                evidence.log_month(store, config, as_of, tags, facts, summary, of_month.tables)
    return receipt


def month_before(
    config: Config, store: tracking.Store, month: publish.Month, champion: champions.Champions
) -> tuple[changes.Before | None, list[str]]:
    """The month before as published, with the models that graded it; None, and why, where those are gone."""
    from clv import champions, changes, publish
    from clv.errors import ModelError

    if month.previous.empty:
        return None, []
    versions = changes.versions_of(month.previous)
    then = None
    if any(champion.versions.get(name) != version for name, version in versions.items()):
        try:
            then = champions.of_versions(store, versions)
        except ModelError as error:
            return None, [f"No changes are told: {error}"]
    criteria, same_settings = publish.measured_before(config, month)
    return changes.Before(month.previous, criteria, then, same_settings), []


def main(
    config: ConfigPath,
    as_of: AsOf,
    through: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Grade every month from --as-of to this day."),
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="run:ID grades with the models of that training run.")
    ] = None,
    set_: Overrides = None,
    log_format: LogFormat = "text",
) -> None:
    """Grade one month, or every month through a later one, and publish it to the warehouse."""
    from clv.config import load

    program.start_logging(log_format)
    settings = load(config, set_ or ())
    run = program.models_run(models)

    from clv.console import show_month, show_receipt  # seconds, which a mistyped setting should not wait for

    for day in program.months(as_of.date(), through.date() if through else as_of.date()):
        show_receipt(day, score(settings, day, run))
    show_month(settings, day)


if __name__ == "__main__":
    program.run(main)
