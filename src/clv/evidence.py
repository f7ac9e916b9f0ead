"""What a training run leaves behind in MLflow: parameters, figures, tables and pictures; never a customer's name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from clv import plots
from clv.criteria import Measured, Models
from clv.evaluation import flat
from clv.learn import Learned
from clv.tables import CORE
from clv.warehouse import content_hash

if TYPE_CHECKING:
    from clv.config import Config
    from clv.contribution import Pricing
    from clv.ingest import Loaded
    from clv.tracking import Run
    from clv.warehouse import Engine

SHAP_ROWS = 2000


def fingerprint(db: Engine) -> dict[str, str]:
    """Core table -> fingerprint of the rows that training saw."""
    return {name: content_hash(db, f"SELECT * FROM main.{name}") for name in CORE}


def params(config: Config, as_of: date, loaded: Loaded, pricing: Pricing) -> dict[str, Any]:
    """Parameters of a training run: the date, what value means, the settings of the models, rows read."""
    settings = config.model_dump(mode="json", include={"lifetime_value", "payment", "prospect", "seed"})
    flat_settings = {
        f"{section}.{name}": value
        for section, content in settings.items()
        if isinstance(content, dict)
        for name, value in content.items()
    }
    rows = {f"rows.{name}": count for name, count in loaded.row_counts.items() if count}
    return {"as_of": as_of, "value_basis": pricing.basis, "config_hash": config.hash, **flat_settings, **rows}


def log(
    run: Run,
    config: Config,
    learned: Mapping[str, Learned[Any] | None],
    models: Models,
    measured: Measured,
    facts: Mapping[str, str],
) -> None:
    """Everything that lets a data scientist judge the run without rerunning it."""
    run.log_config(config.model_dump(mode="json"))
    run.log_table(
        pd.DataFrame({"table": list(facts), "fingerprint": list(facts.values())}), "data_fingerprint.json"
    )
    for name, what in learned.items():
        if what is None or not what.report:
            continue
        run.log_metrics({f"{name}/{figure}": value for figure, value in flat(what.report).items()})
        figures = pd.DataFrame.from_dict(what.report, orient="index").reset_index(names="forecast")
        run.log_table(figures, f"{name}/forecasts.json")
        if len(what.outcome):
            _log_test(run, name, what)
    active = measured.customers.loc[measured.customers["is_active"]].head(SHAP_ROWS)
    if models.lifetime_value.mode != "last_period" and len(active):
        phi = models.lifetime_value.attribute(active).phi
        run.log_figure(
            plots.shap_summary(phi, models.lifetime_value.design(active)), "lifetime-value/shap.png"
        )


def _log_test(run: Run, name: str, what: Learned[Any]) -> None:
    title = f"{name}, forecast of {what.tested_from}"
    if name == "lifetime-value":
        curves = {"model": (what.outcome, what.predicted)}
        run.log_figure(plots.gains(curves), f"{name}/gains.png")
        run.log_figure(plots.decile_bars(what.predicted, what.outcome), f"{name}/deciles.png")
    elif 0 < np.sum(what.outcome) < len(what.outcome):
        run.log_figure(
            plots.calibration(what.predicted, what.outcome, title=title), f"{name}/calibration.png"
        )
