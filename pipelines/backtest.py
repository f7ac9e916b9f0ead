"""What would have been predicted at a date, against what then happened: the models beside simpler answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clv import program
from clv.errors import ModelError
from clv.program import AsOf, ConfigPath, LogFormat, Overrides, step

if TYPE_CHECKING:
    from clv.config import Config
    from clv.period import Horizon
    from clv.warehouse import Engine

OUTCOME_MONTHS = 36  # after the horizon, within which its last invoices fall due and are paid or not
SILENCE_DAYS = 92
PARTS = ("lifetime_value", "payment_delay", "prospect_value", "tiers", "groups", "truth")


def backtest(config: Config, as_of: date, horizon: Horizon) -> dict[str, Any]:
    """Figures per part and forecast; a part that the data does not allow is None, and `why` says why.

    The models see only what was known before `as_of`; what happened is read from all facts of the company.
    """
    from clv import evaluation, ingest, learn, tiers, truth, warehouse
    from clv.contribution import price_lines
    from clv.period import add_months

    report: dict[str, Any] = {"as_of": str(as_of), "horizon_days": horizon.length_days(as_of)}
    report |= dict.fromkeys(("customers", *PARTS))
    why: dict[str, str] = {}
    groups, true = {}, {}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        """What the data does not allow leaves the part null, with the reason."""
        try:
            yield
        except ModelError as error:
            why[name] = str(error)

    with warehouse.workspace_of(config) as db, warehouse.workspace_of(config) as future:
        with step(f"reading what was known before {as_of}, and what came after"):
            ingest.load(db, config, as_of)
            ingest.load(future, config, add_months(horizon.after(as_of), OUTCOME_MONTHS))
            basis = price_lines(db, config).basis
            price_lines(future, config)
            last_day = _last_day(future, as_of)
        known: truth.Truth | None = None
        with part("truth"):
            known = truth.read(db, config, as_of)

        with step("lifetime value"), part("lifetime_value"):
            made = learn.forecast_lifetime_value(
                db, as_of, config, basis=basis, horizon=horizon, with_interval=True
            )
            report["customers"] = len(made.frame)
            if known:
                true["lifetime_value"] = truth.of_value(known, made)
            _require_future("orders", horizon.after(as_of), last_day["order_lines"])
            trial = made.judged(future, config)
            report["lifetime_value"] = trial.report(config.seed)
            groups["lifetime_value"] = trial.groups(config.seed)
            sizes = tiers.counts(len(made.frame), config.tiers.shares_ratio)
            report["tiers"] = evaluation.tier_report(trial.realised, trial.forecasts, sizes)

        with step("payment delay"), part("payment_delay"):
            if last_day["invoices"] is None:
                raise ModelError("No invoices are on record, or no payments are mapped beside them.")
            invoices = learn.try_payment_delay(
                db,
                as_of,
                config,
                known_at=last_day["invoices"],
                horizon_days=horizon.length_days(as_of),
                future=future,
            )
            report["payment_delay"], groups["payment_delay"] = invoices.report(), invoices.groups()
            if known:
                true["payment_delay"] = truth.of_payment(known, invoices)
                true["late_payment_probability"] = truth.of_payers(known, db, invoices, as_of, config)

        with step("prospects"), part("prospect_value"):
            if not config.known_at_first_contact:
                raise ModelError("No attribute known at first contact is declared.")
            prospects = learn.try_prospect_value(
                db, as_of, config, known_at=last_day["order_lines"], future=future
            )
            report["prospect_value"] = prospects.report()
            if known:
                true["prospect_value"] = truth.of_prospects(known, prospects)
    if report["tiers"] is None:
        why["tiers"] = why["lifetime_value"]
    if not groups:
        why["groups"] = "nothing was judged"
    return report | {"groups": groups or None, "truth": true or None} | ({"why": why} if why else {})


def _last_day(future: Engine, as_of: date) -> dict[str, Any]:
    """The day after the last fact, by table: until then outcomes are known.

    What follows a silence of more than SILENCE_DAYS after `as_of` is a mistyped date, not data until then.
    """
    sql = """
        WITH days AS (SELECT DISTINCT {day} AS day FROM main.{table}),
        gaps AS (SELECT day, day - lag(day) OVER (ORDER BY day) AS gap FROM days)
        SELECT max(day) + 1 FROM gaps WHERE day < (
            SELECT coalesce(min(day), DATE '9999-12-31') FROM gaps WHERE day >= DATE '{as_of}' AND gap > {silence})"""
    tables = {"order_lines": "order_date", "invoices": "invoice_date"}
    return {
        table: future.rows(sql.format(day=day, table=table, as_of=as_of, silence=SILENCE_DAYS))[0][0]
        for table, day in tables.items()
    }


def _require_future(what: str, needed: date, known_until: date | None) -> None:
    if known_until is None or known_until < needed:
        raise ModelError(
            f"The horizon ends on {needed}, {what} are known until {known_until}: use a shorter horizon."
        )


def main(
    config: ConfigPath,
    as_of: AsOf,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON to this file.")] = None,
    horizon_days: Annotated[
        int | None, typer.Option(min=1, help="Days ahead instead of lifetime_value.horizon_months.")
    ] = None,
    tiers: Annotated[
        bool,
        typer.Option("--tiers", help="Grade --months months in a row: stability and worth of the tiers."),
    ] = False,
    months: Annotated[int, typer.Option(min=1, help="With --tiers: months after --as-of.")] = 12,
    retrain_months: Annotated[
        int, typer.Option(min=1, help="With --tiers: learn again after so many months.")
    ] = 12,
    set_: Overrides = None,
    log_format: LogFormat = "text",
) -> None:
    """Judge the models on a past date, beside simpler forecasts of the same rows."""
    from clv.config import load
    from clv.console import show_backtest, show_rolling
    from clv.period import Horizon

    program.start_logging(log_format)
    settings = load(config, set_ or ())
    horizon = (
        Horizon(days=horizon_days) if horizon_days else Horizon(months=settings.lifetime_value.horizon_months)
    )
    if tiers:
        from clv import rolling

        found = rolling.backtest_tiers(
            settings,
            as_of.date(),
            horizon,
            months=months,
            retrain_months=retrain_months,
            progress=program.LOG.info,
        )
        shown = show_rolling
    else:
        found, shown = backtest(settings, as_of.date(), horizon), show_backtest
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shown(found)


if __name__ == "__main__":
    program.run(main)
