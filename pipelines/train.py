"""Fit, evaluate, log, register as challenger, promote through the gate."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from clv import program
from clv.program import AsOf, ConfigPath, LogFormat, Overrides, step

if TYPE_CHECKING:
    from clv.config import Config


def train(config: Config, as_of: date, tune_minutes: float | None = None) -> str:
    """Learn everything that grading needs from the facts before `as_of`; returns the MLflow run id.

    `tune_minutes`: search the shape of the lifetime-value model for so long first.
    """
    from clv import (
        champions,
        criteria,
        evidence,
        grades,
        ingest,
        learn,
        publish,
        snapshots,
        tracking,
        warehouse,
    )
    from clv.contribution import price_lines
    from clv.portfolio import portfolio

    with publish.training(config, as_of) as record, warehouse.workspace_of(config) as db:
        with step(f"{config.company}: reading what was known before {as_of}"):
            loaded = ingest.load(db, config, as_of)
            pricing = price_lines(db, config)
            facts = evidence.fingerprint(db)
        store = tracking.open_store(config.company, config.mlflow.tracking_uri, config.mlflow.artifact_dir)
        basis, horizon = pricing.basis, learn.horizon_of(config)
        tuned = None
        if tune_minutes:
            with step("searching the shape of the lifetime-value model"):
                tuned = learn.tune_lifetime_value(
                    db, as_of, config, basis=basis, horizon=horizon, minutes=tune_minutes
                )
                config = tuned.config
        with step("learning lifetime value, tested on the last horizon"):
            value, present = learn.learn_lifetime_value(db, as_of, config, basis=basis, horizon=horizon)
        with step("learning payment delay, tested on the last half year"):
            active = present.loc[present["is_active"], "customer_id"]
            payment = learn.learn_payment_delay(db, as_of, config, active)
        with step("learning prospects, tested on the last quarter"):
            prospect = learn.learn_prospect_value(db, as_of, config)

        learned = {"lifetime-value": value, "payment-delay": payment, "prospect-value": prospect}
        chosen = champions.choose(store, as_of, learned, attributes=config.known_at_first_contact)
        with step("learning the scales of the grades"):
            measured = criteria.measure(db, as_of, config, pricing, chosen.models)
            grading = grades.fit_grading(measured, as_of, config.composite.scale)
        with step("learning how scores move from month to month"):
            grading = snapshots.learn(db, as_of, config, pricing, chosen.models, grading)
            receivables = portfolio(db, as_of, config.payment)
        with step("holding judges and prospects to what happened"):
            record_of = learn.prospect_record(db, as_of, config, value, chosen.models.prospect_value)
            grading = replace(grading, prospects=record_of.population)

        with step("logging and registering in MLflow"):
            params, tags = evidence.params(config, as_of, loaded, pricing), {"kind": "train", "as_of": as_of}
            with tracking.training_run(store, f"train {as_of}", params=params, tags=tags) as run:
                evidence.log(
                    run,
                    config,
                    learned,
                    chosen.models,
                    measured,
                    grading,
                    facts,
                    receivables,
                    record_of.tables,
                )
                if tuned:
                    run.log_table(tuned.trials, "lifetime-value/tuning.json")
                champions.register(store, run, as_of, chosen, learned, grading)
        record.mlflow_run_id = run.run_id
        record.why = {**chosen.why, publish.FACTS: record_of.facts}
    for name, what in chosen.why.items():
        program.LOG.info("  %s: %s", name, what)
    return run.run_id


def main(
    config: ConfigPath,
    as_of: AsOf,
    tune: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            metavar="MINUTES",
            help="First search the shape of the lifetime-value model for so long.",
        ),
    ] = None,
    set_: Overrides = None,
    log_format: LogFormat = "text",
) -> None:
    """Fit, evaluate, log, register and, where the gate lets it pass, promote the models of one date."""
    from clv.config import load

    program.start_logging(log_format)
    train(load(config, set_ or ()), as_of.date(), tune)


if __name__ == "__main__":
    program.run(main)
