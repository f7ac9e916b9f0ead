"""The shape of the lifetime-value model, searched on calibration periods alone: what tests the model is never seen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import metrics
from clv.errors import ConfigError, ModelError
from clv.learn.value import Histories, histories, with_outcome
from clv.models.value_parts import BuyTillYouDie
from clv.models.value_training import fit_btyd, fit_part
from clv.period import Horizon

if TYPE_CHECKING:
    from clv.config import Config
    from clv.warehouse import Engine

Floats = NDArray[np.float64]

ORIGINS, STEP_DAYS = 3, 30
SHAPE = ("num_leaves", "rounds", "learning_rate", "tweedie_variance_power")  # settings that are searched


@dataclass(frozen=True)
class Tuned:
    """`config` with the best shape found. `trials`: a row per shape tried, with its mean Gini over `origins`."""

    config: Config
    trials: pd.DataFrame
    origins: tuple[date, ...]


def tune_lifetime_value(
    db: Engine, as_of: date, config: Config, *, basis: str, horizon: Horizon, minutes: float
) -> Tuned:
    """Search for `minutes` by Optuna's TPE (Bergstra et al., 2011), the configured shape first. Leaves `past` moved.

    A shape is worth its mean normalised Gini over up to 3 origins, 30 days apart, whose horizons all end before the
    period begins on which the gate tests the model. Raises ModelError where history is too short for one of them,
    ConfigError where Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("--tune needs Optuna, found none. Install it: pip install 'clv[tune]'.") from error
    last = horizon.before(horizon.before(as_of))
    worlds: list[tuple[date, Histories, BuyTillYouDie | None, Floats]] = []
    for i in range(ORIGINS):
        origin = last - timedelta(days=STEP_DAYS * i)
        try:
            found = histories(db, origin, config, basis=basis, horizon=horizon)
        except ModelError as error:
            if not worlds:
                raise ModelError(
                    f"No period to tune on before the test of {horizon.before(as_of)}: {error}"
                ) from error
            break
        then = with_outcome(db, found.present, origin, horizon, config, basis)["realised_contribution"]
        newest = found.training["snapshot_date"] == found.training["snapshot_date"].max()
        last_horizon = float(found.training.loc[newest, "realised_value"].sum())
        purchases, _ = fit_btyd(found.present, horizon.length_days(origin), config, last_horizon)
        worlds.append((origin, found, purchases, then.to_numpy(np.float64)))

    def worth(trial: Any) -> float:
        shape = {
            "num_leaves": trial.suggest_int("num_leaves", 3, 11),
            "rounds": trial.suggest_int("rounds", 60, 500, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.1, log=True),
            "tweedie_variance_power": trial.suggest_float("tweedie_variance_power", 1.05, 1.6),
        }
        shaped = with_shape(config, shape)
        return float(np.mean([_gini(found, purchases, then, shaped) for _, found, purchases, then in worlds]))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=config.seed))
    study.enqueue_trial(config.lifetime_value.model_dump(include=set(SHAPE)))
    study.optimize(worth, timeout=minutes * 60)
    trials = pd.DataFrame([{**trial.params, "normalised_gini": trial.value} for trial in study.trials])
    return Tuned(with_shape(config, study.best_params), trials, tuple(origin for origin, *_ in worlds))


def with_shape(config: Config, shape: dict[str, Any]) -> Config:
    """`config` with other settings of the lifetime-value model, checked like any."""
    settings = type(config.lifetime_value).model_validate(config.lifetime_value.model_dump() | shape)
    return config.model_copy(update={"lifetime_value": settings})


def _gini(found: Histories, purchases: BuyTillYouDie | None, then: Floats, config: Config) -> float:
    part = fit_part(found.training, found.present, purchases, config)
    return metrics.normalised_gini(then, part.raw(part.inputs(found.present)))
