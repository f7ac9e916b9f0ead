"""A back-test: what is known before a date set against what came after it, on one date or on several."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from clv import ingest, learn, tiers
from clv.contribution import price_lines
from clv.errors import ModelError, TableError
from clv.evaluation import over_origins, tier_report
from clv.period import Horizon, add_months
from clv.warehouse import workspace_of

if TYPE_CHECKING:
    from clv.config import Config
    from clv.learn import ValueForecasts, ValueTrial
    from clv.warehouse import Engine

OUTCOME_MONTHS = 36  # after the horizon, within which its last invoices fall due and are paid or not
SILENCE_DAYS = 92


@dataclass(frozen=True)
class Facts:
    """What a back-test at `as_of` reads: `past` holds what was known before it, `future` also what came after.

    `basis`: what value means. `orders_until`, `invoices_until`: the day from which on outcomes are not known; None
    without such facts.
    """

    as_of: date
    horizon: Horizon
    past: Engine
    future: Engine
    basis: str
    orders_until: date | None
    invoices_until: date | None


def read(past: Engine, future: Engine, config: Config, as_of: date, horizon: Horizon) -> Facts:
    """The facts of a back-test at `as_of`, read into two fresh engines.

    The models see `past` only; what happened is read from all facts of the company.
    """
    ingest.load(past, config, as_of)
    ingest.load(future, config, add_months(horizon.after(as_of), OUTCOME_MONTHS))
    basis = price_lines(past, config).basis
    price_lines(future, config)
    orders_until = _known_until(future, "order_lines", "order_date", as_of)
    invoices_until = _known_until(future, "invoices", "invoice_date", as_of)
    return Facts(as_of, horizon, past, future, basis, orders_until, invoices_until)


def forecast_value(known: Facts, config: Config) -> ValueForecasts:
    """What would have been forecast of customers' value; ModelError where history does not allow it."""
    return learn.forecast_lifetime_value(
        known.past, known.as_of, config, basis=known.basis, horizon=known.horizon
    )


def judge_value(known: Facts, made: ValueForecasts, config: Config) -> tuple[ValueTrial, dict[str, Any]]:
    """Forecasts of value beside what then happened, and the report's `lifetime_value` and `tiers`.

    Raises ModelError where the horizon has not passed.
    """
    end = known.horizon.after(known.as_of)
    if known.orders_until is None or known.orders_until < end:
        raise ModelError(
            f"The horizon ends on {end}, orders are known until {known.orders_until}: use a shorter horizon."
        )
    trial = made.judged(known.future, config)
    sizes = tiers.counts(len(made.frame), config.tiers.shares_ratio)
    report = trial.report(config.seed)
    return trial, {
        "lifetime_value": report,
        "tiers": tier_report(trial.realised, trial.forecasts, sizes),
    }


def origin(config: Config, as_of: date, horizon: Horizon) -> dict[str, Any]:
    """The report of a back-test of value at `as_of` alone: `as_of`, `customers`, `lifetime_value`, `tiers`.

    What the data do not allow is None, and `why` says why.
    """
    report: dict[str, Any] = {"as_of": str(as_of)} | dict.fromkeys(("customers", "lifetime_value", "tiers"))
    try:
        with workspace_of(config) as past, workspace_of(config) as future:
            known = read(past, future, config, as_of, horizon)
            made = forecast_value(known, config)
            report["customers"] = len(made.frame)
            report |= judge_value(known, made, config)[1]
    except (ModelError, TableError) as error:  # a table without a row before the date is a TableError
        report["why"] = {"lifetime_value": str(error)}
    return report


def earlier_origins(as_of: date, origins: int, step_months: int) -> list[date]:
    """The dates before `as_of` that make `origins` with it, calendar months apart, earliest first."""
    return [add_months(as_of, -step_months * back) for back in range(origins - 1, 0, -1)]


def with_origins(report: dict[str, Any], earlier: list[dict[str, Any]], config: Config) -> dict[str, Any]:
    """`report` with `origins`: `reports`, those of `earlier` dates (see `origin`) and its own, and their `summary`."""
    own = {name: report[name] for name in ("as_of", "customers", "lifetime_value", "tiers")}
    if own["lifetime_value"] is None:
        own["why"] = {"lifetime_value": report["why"]["lifetime_value"]}
    reports = [*earlier, own]
    judged = [each["lifetime_value"] for each in reports if each["lifetime_value"]]
    return report | {"origins": {"reports": reports, "summary": over_origins(judged, config.seed)}}


def _known_until(future: Engine, table: str, day: str, as_of: date) -> Any:
    """The day after the last fact: until then outcomes are known.

    What follows a silence of more than SILENCE_DAYS after `as_of` is a mistyped date, not data until then.
    """
    [(until,)] = future.rows(f"""
        WITH days AS (SELECT DISTINCT {day} AS day FROM main.{table}),
        gaps AS (SELECT day, day - lag(day) OVER (ORDER BY day) AS gap FROM days)
        SELECT max(day) + 1 FROM gaps WHERE day < (
            SELECT coalesce(min(day), DATE '9999-12-31') FROM gaps
            WHERE day >= DATE '{as_of}' AND gap > {SILENCE_DAYS})""")
    return until
