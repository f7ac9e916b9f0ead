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
    from clv.exhibits import Judged
    from clv.period import Horizon

PARTS = ("lifetime_value", "payment_delay", "prospect_value", "tiers", "groups", "truth")


def backtest(config: Config, as_of: date, horizon: Horizon) -> dict[str, Any]:
    """Figures per part and forecast; a part that the data does not allow is None, and `why` says why.

    The models see only what was known before `as_of`; what happened is read from all facts of the company.
    """
    return judge(config, as_of, horizon)[0]


def judge(config: Config, as_of: date, horizon: Horizon) -> tuple[dict[str, Any], dict[str, Judged]]:
    """The report of `backtest`, and the rows behind it by the name of their model."""
    from clv import backtests, learn, truth, warehouse
    from clv.exhibits import Judged

    report: dict[str, Any] = {"as_of": str(as_of), "horizon_days": horizon.length_days(as_of)}
    report |= dict.fromkeys(("customers", *PARTS))
    why: dict[str, str] = {}
    groups, true = {}, {}
    judged: dict[str, Judged] = {}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        """What the data does not allow leaves the part null, with the reason."""
        try:
            yield
        except ModelError as error:
            why[name] = str(error)

    with warehouse.workspace_of(config) as past, warehouse.workspace_of(config) as future:
        with step(f"reading what was known before {as_of}, and what came after"):
            facts = backtests.read(past, future, config, as_of, horizon)
        known: truth.Truth | None = None
        with part("truth"):
            known = truth.read(past, config, as_of)

        with step("lifetime value"), part("lifetime_value"):
            made = backtests.forecast_value(facts, config)
            report["customers"] = len(made.frame)
            if known:
                true["lifetime_value"] = truth.of_value(known, made)
            trial, figures = backtests.judge_value(facts, made, config)
            report |= figures
            groups["lifetime_value"] = trial.groups(config.seed)
            values = {name: forecast.value for name, forecast in trial.forecasts.items()}
            course = made.course(future, config)
            judged["lifetime-value"] = Judged(as_of, trial.realised, values, course)

        with step("payment delay"), part("payment_delay"):
            if facts.invoices_until is None:
                raise ModelError("No invoices are on record, or no payments are mapped beside them.")
            invoices = learn.try_payment_delay(
                past,
                as_of,
                config,
                known_at=facts.invoices_until,
                horizon_days=horizon.length_days(as_of),
                future=future,
            )
            report["payment_delay"], groups["payment_delay"] = invoices.report(), invoices.groups()
            judged["payment-delay"] = Judged(as_of, invoices.late, invoices.probabilities)
            groups["payment_thresholds"] = invoices.thresholds()
            if known:
                true["payment_delay"] = truth.of_payment(known, invoices)
                true["late_payment_probability"] = truth.of_payers(known, past, invoices, as_of, config)

        with step("prospects"), part("prospect_value"):
            if not config.known_at_first_contact:
                raise ModelError("No attribute known at first contact is declared.")
            prospects = learn.try_prospect_value(
                past, as_of, config, known_at=facts.orders_until, future=future
            )
            report["prospect_value"] = prospects.report()
            judged["prospect-value"] = Judged(as_of, prospects.converted, prospects.probabilities)
            if known:
                true["prospect_value"] = truth.of_prospects(known, prospects)
    if report["tiers"] is None:
        why["tiers"] = why["lifetime_value"]
    if not groups:
        why["groups"] = "nothing was judged"
    report |= {"groups": groups or None, "truth": true or None} | ({"why": why} if why else {})
    return report, judged


def roll(
    config: Config, report: dict[str, Any], horizon: Horizon, *, origins: int, step_months: int
) -> dict[str, Any]:
    """`report` with the lifetime value of earlier dates beside its own, and a summary over all of them."""
    from clv import backtests

    earlier = []
    for day in backtests.earlier_origins(date.fromisoformat(report["as_of"]), origins, step_months):
        with step(f"lifetime value of {day}"):
            earlier.append(backtests.origin(config, day, horizon))
    return backtests.with_origins(report, earlier, config)


def main(
    config: ConfigPath,
    as_of: AsOf,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON to this file.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the report with its pictures to this file, one page of HTML.")
    ] = None,
    horizon_days: Annotated[
        int, typer.Option(min=0, help="Days ahead; 0: the months of lifetime_value.horizon_months.")
    ] = 0,
    origins: Annotated[
        int, typer.Option(min=1, help="Judge lifetime value on so many dates, the last of them --as-of.")
    ] = 1,
    step_months: Annotated[int, typer.Option(min=1, help="Calendar months from one date to the next.")] = 1,
    mlflow: Annotated[bool, typer.Option(help="Leave the report and its pictures in MLflow.")] = True,
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
    """Judge the models on a past date, or on several, beside simpler forecasts of the same rows."""
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

        graded = rolling.backtest_tiers(
            settings,
            as_of.date(),
            horizon,
            months=months,
            retrain_months=retrain_months,
            progress=program.LOG.info,
        )
        if report is not None:
            program.write_text(report, json.dumps(graded, indent=2, ensure_ascii=False) + "\n")
        show_rolling(graded)
        return
    found, judged = judge(settings, as_of.date(), horizon)
    if origins > 1:
        found = roll(settings, found, horizon, origins=origins, step_months=step_months)
    from clv import evidence, exhibits, pages, tracking

    if report is not None:
        program.write_text(report, evidence.as_json(found))
    show_backtest(found)
    if html is None and not mlflow:
        return
    with step("drawing"):
        shown = exhibits.of_backtest(found, judged, settings)
        page = pages.of_backtest(settings, found, shown)
    if html is not None:
        program.write_text(html, page)
    if mlflow:
        with step("logging in MLflow"):
            place = settings.mlflow
            store = tracking.open_store(settings.company, place.tracking_uri, place.artifact_dir)
            name, params = f"backtest {found['as_of']}", evidence.backtest_params(settings, found)
            tags = {"kind": "backtest", "as_of": found["as_of"], "horizon_days": found["horizon_days"]}
            with tracking.training_run(store, name, params=params, tags=tags) as run:
                evidence.log_backtest(run, settings, found, shown, page)


if __name__ == "__main__":
    program.run(main)
