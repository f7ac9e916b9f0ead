"""What a training or a back-test leaves behind in MLflow: parameters, figures, tables and pictures.

No customer is named and no fact of one is logged: figures are over all, pictures show dots without a name, examples
are invented, and what drives single grades stands under keyed pseudonyms, in points.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import pandas as pd

from clv import drivers, grades, tracking
from clv.evaluation import flat
from clv.exhibits import Exhibits, Judged, of_test
from clv.plots import ledger
from clv.tables import CORE
from clv.warehouse import content_hash

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clv.composite import Grading
    from clv.config import Config
    from clv.contribution import Pricing
    from clv.criteria import Measured, Models
    from clv.ingest import Loaded
    from clv.learn import Learned
    from clv.tracking import Run, Store
    from clv.warehouse import Engine

LOG = logging.getLogger("clv")

PARTS = {  # of a back-test's report, and the models they judge
    "lifetime_value": "lifetime-value",
    "payment_delay": "payment-delay",
    "prospect_value": "prospect-value",
}


def fingerprint(db: Engine) -> dict[str, str]:
    """Core table -> fingerprint of the rows that training saw."""
    return {name: content_hash(db, f"SELECT * FROM main.{name}") for name in CORE}


def params(config: Config, as_of: date, loaded: Loaded, pricing: Pricing) -> dict[str, Any]:
    """Parameters of a training run: the date, what value means, the settings of the models, rows read."""
    rows = {f"rows.{name}": count for name, count in loaded.row_counts.items() if count}
    return {"as_of": as_of, "value_basis": pricing.basis, **_settings(config), **rows}


def backtest_params(config: Config, report: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a back-test's run: the date, the horizon, the settings of the models."""
    return {"as_of": report["as_of"], "horizon_days": report["horizon_days"], **_settings(config)}


def _settings(config: Config) -> dict[str, Any]:
    settings = config.model_dump(mode="json", include={"lifetime_value", "payment", "prospect"})
    flat_settings = {
        f"{section}.{name}": value for section, content in settings.items() for name, value in content.items()
    }
    return {"config_hash": config.hash, "seed": config.seed, **flat_settings}


def log(
    run: Run,
    config: Config,
    learned: Mapping[str, Learned[Any] | None],
    models: Models,
    measured: Measured,
    grading: Grading,
    facts: Mapping[str, str],
    receivables: Mapping[str, pd.DataFrame],
    of_prospects: Mapping[str, pd.DataFrame],
) -> None:
    """Everything that lets a data scientist judge the run without rerunning it.

    Per model: the figures of its forecast and of every baseline, what the forecast was worth on the later period as
    pictures, and what drives the model that grades (`models`); of the grades that `models` and `grading` give, without
    the months before and decisions by hand, what drives them. `receivables`: portfolio.portfolio; `of_prospects`:
    the tables of learn.prospect_record. Raises ModelError where our Shapley values and those of `shap` part.
    """
    run.log_config(config.model_dump(mode="json"))
    tables = pd.DataFrame({"table": list(facts), "fingerprint": list(facts.values())})
    run.log_table(tables, "data_fingerprint.json")
    for name, what in learned.items():
        if what is None or not what.report:
            continue
        run.log_metrics({f"{name}/{figure}": value for figure, value in flat(what.report).items()})
        figures = pd.DataFrame.from_dict(what.report, orient="index").reset_index(names="forecast")
        run.log_table(figures, f"{name}/forecasts.json")
        for table, frame in what.tables.items():
            run.log_table(frame, f"{name}/{table}.json")
        judged = Judged(what.tested_from, what.outcome, what.forecasts, what.course)
        of_test(name, judged, config).log(run)
        for picture, figure in _of_calibration(name, what).items():
            run.log_figure(figure, f"{name}/{picture}.png")
    for table, frame in of_prospects.items():
        run.log_table(frame, f"prospect-value/{table}.json")
    for table, frame in receivables.items():
        run.log_table(frame, f"receivables/{table}.json")
    for picture, figure in _of_receivables(receivables, config.reporting_currency).items():
        run.log_figure(figure, f"receivables/{picture}.png")
    difference = drivers.differences(models, measured)
    run.log_metrics({f"{name}/shap_difference": value for name, value in difference.items()})
    drivers.of_models(models, measured, config).log(run)
    customers = grades.grade_customers(
        measured, grading, config, grades.NOBODY, grades.NOBODY, policy_reset=True
    )
    prospects = grades.grade_prospects(
        measured, grading, config, grades.NOBODY, grades.NOBODY, grading.trained_as_of, policy_reset=True
    )
    drivers.of_grades(customers, prospects, measured, models, grading, config).log(run)


def log_month(
    store: Store,
    config: Config,
    as_of: date,
    tags: Mapping[str, object],
    facts: pd.DataFrame,
    summary: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
) -> None:
    """A published month, as a run of kind `score`: its figures (`month/NAME`), its tiers, and `tables` about prospects.

    `facts`: rows of `month_facts`, whose words stay in the warehouse, as they name people; `summary`: `tier_summary`;
    `tags` link the run to the month and to its training. The month is published already: what goes wrong here is
    said in the log, and undoes nothing.
    """
    try:
        named = {"kind": "score", "as_of": as_of} | dict(tags)
        params = {"as_of": as_of, "config_hash": config.hash}
        with tracking.training_run(store, f"score {as_of}", params=params, tags=named) as run:
            known = facts[facts["value"].notna()]
            run.log_metrics(
                {f"month/{name}": value for name, value in zip(known["name"], known["value"], strict=True)}
            )
            run.log_table(summary, "tiers.json")
            for name, table in tables.items():
                run.log_table(table, f"prospects/{name}.json")
    except Exception as error:  # whatever MLflow, its database or its server may raise
        LOG.warning("The month %s is published, but not in MLflow: %s", as_of, error)


def log_backtest(run: Run, config: Config, report: Mapping[str, Any], shown: Exhibits, page: str) -> None:
    """A back-test: its figures, named as training names them; the report; the page that shows it; what the page is of.

    Figures over several dates are `origins/NAME/figure`.
    """
    run.log_config(config.model_dump(mode="json"))
    figures = {name: flat(report[part] or {}) for part, name in PARTS.items()}
    figures["origins"] = flat(report["origins"]["summary"]) if "origins" in report else {}
    for name, found in figures.items():
        run.log_metrics({f"{name}/{figure}": value for figure, value in found.items()})
    run.log_text(as_json(report), "backtest.json")
    run.log_text(page, "backtest.html")
    shown.log(run)


def as_json(report: Mapping[str, Any]) -> str:
    """A back-test's report as it is written to a file; a number that is none would be an error."""
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _of_calibration(name: str, what: Learned[Any]) -> dict[str, Figure]:
    """Picture -> figure of where the payment model errs: by month and by segment."""
    title = f"Late payment, forecast and fact from {what.tested_from}"
    return {
        table: ledger.calibration_by(what.tables[table], title=title)
        for table in ("calibration_by_month", "calibration_by_segment")
        if name == "payment-delay" and table in what.tables
    }


def _of_receivables(tables: Mapping[str, pd.DataFrame], currency: str) -> dict[str, Figure]:
    """Picture -> figure of what is owed; none without invoices."""
    if not tables:
        return {}
    return {
        "ageing": ledger.ageing(tables["ageing"], currency),
        "roll_rates": ledger.roll_rates(tables["roll_rates"]),
        "roll_rates_by_month": ledger.roll_rates_by_month(tables["roll_rates_by_month"]),
        "by_month": ledger.outstanding(tables["by_month"]),
        "delay_reasons": ledger.delay_reasons(tables["delay_reasons"], currency),
    }
