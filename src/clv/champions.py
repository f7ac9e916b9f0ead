"""The models that grade a date: chosen and registered by training, found and loaded by scoring."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd

from clv import tracking
from clv.composite import Grading
from clv.criteria import Models
from clv.errors import ModelError
from clv.features import FEATURES
from clv.learn import Learned
from clv.models.attributes import AttributeEncoder
from clv.models.lifetime_value import LifetimeValue
from clv.models.payment_delay import PaymentDelay
from clv.models.payment_features import NAMES as PAYMENT_NAMES
from clv.models.payment_features import RATIOS
from clv.models.prospect_parts import AGE
from clv.models.prospect_value import ProspectValue
from clv.models.value_parts import BTYD_INPUTS
from clv.period import UNEQUAL_MONTHS_DAYS
from clv.pyfunc import read_model

# Model -> the criterion that it measures.
CRITERION = {"lifetime-value": "lifetime_value", "payment-delay": "payment", "prospect-value": "prospect"}
TAG_LENGTH = 400  # characters of a reason; a tag may hold little more


@dataclass(frozen=True)
class Champions:
    """Models and scales that grade a month; `versions`: model name -> registered version."""

    models: Models
    grading: Grading
    versions: Mapping[str, str]
    mlflow_run_id: str


@dataclass(frozen=True)
class Chosen:
    """What a training run ends up with: per model the one that will grade, and why.

    `promoted`: names of the models of this run that take over; the others' champion stays.
    """

    models: Models
    promoted: frozenset[str]
    why: Mapping[str, str]


def choose(
    store: tracking.Store,
    as_of: date,
    learned: Mapping[str, Learned[Any] | None],
    *,
    attributes: Collection[str] | None = None,
) -> Chosen:
    """The model that passed its gate; else the champion so far; else, where none can stay, the fallback.

    `attributes`: those declared today, without which a champion that reads others cannot stay.
    """
    models: dict[str, Any] = {}
    promoted, why = set(), {}
    for name, what in learned.items():
        champion = tracking.champion(store, name, as_of)
        if what is None:
            models[name], why[name] = None, "nothing to learn from in this company's data"
        elif what.passed or champion is None:
            models[name] = what.model
            promoted.add(name)
            why[name] = f"promoted, {what.why}" if what.passed else f"fallback promoted: {what.why}"
        else:
            standing = read_model(name, tracking.load_files(store, champion))
            reason = _why_it_cannot_stay(standing, what.model, attributes)
            if reason is None:
                models[name], why[name] = standing, f"version {champion.version} stays: {what.why}"
            else:
                models[name] = what.model
                promoted.add(name)
                why[name] = f"fallback promoted: {what.why}; version {champion.version} cannot stay: {reason}"
    found = Models(models["lifetime-value"], models["payment-delay"], models["prospect-value"])
    return Chosen(found, frozenset(promoted), why)


def _why_it_cannot_stay(standing: Any, fallback: Any, attributes: Collection[str] | None) -> str | None:
    """What the champion `standing` forecasts or reads that is not asked for or there today; None where nothing."""
    if isinstance(standing, LifetimeValue):
        if standing.basis != fallback.basis:
            return f"it forecasts {standing.basis}, the facts give {fallback.basis}"
        if abs(standing.horizon_days - fallback.horizon_days) > UNEQUAL_MONTHS_DAYS:
            return f"it forecasts {standing.horizon_days} days, {fallback.horizon_days} are asked for"
    if attributes is not None and isinstance(standing, LifetimeValue | ProspectValue):
        read = [column.name for column in standing.encoder.columns]
        if isinstance(standing, ProspectValue) and standing.segment is not None:
            read = list(standing.segment)
        gone = sorted(set(read) - set(attributes))
        if gone:
            return f"it reads the attribute {', '.join(gone)}, which is gone"
    return None


def register(
    store: tracking.Store,
    run: tracking.Run,
    as_of: date,
    chosen: Chosen,
    learned: Mapping[str, Learned[Any] | None],
    grading: Grading,
) -> None:
    """Register this run's models and scales as challengers, and promote those that were chosen.

    Nothing is promoted before everything is registered: models and the scales learned with them belong together.
    What is the champion already, to the letter, is not registered again: training a month twice changes nothing.
    """
    registered = {}
    for name, what in learned.items():
        if what is None or _stands_already(store, name, as_of, what.model.to_files()):
            continue
        example = _invented(what.model)
        registered[name] = run.register(
            name,
            what.model.to_files(),
            trained_as_of=as_of,
            input_example=example,
            output_example=what.model.predict(example),
            metrics={},
            tags={"passed": str(what.passed).lower(), "why": what.why[:TAG_LENGTH]},
        )
    if not _stands_already(store, "grading", as_of, grading.to_files()):
        registered["grading"] = run.register(
            "grading",
            grading.to_files(),
            trained_as_of=as_of,
            input_example=None,
            output_example=None,
            metrics={},
            tags={},
        )
    why = dict(chosen.why) | {"grading": "scales of the models chosen with it"}
    for name in sorted((chosen.promoted | {"grading"}) & registered.keys()):
        tracking.promote(store, registered[name], why[name][:TAG_LENGTH])


def _stands_already(store: tracking.Store, name: str, as_of: date, files: Mapping[str, str]) -> bool:
    champion = tracking.champion(store, name, as_of)
    if champion is None or champion.trained_as_of != as_of:
        return False
    return tracking.load_files(store, champion) == dict(files)


def find(store: tracking.Store, as_of: date, run: str | None = None) -> dict[str, tracking.ModelVersion]:
    """The versions that grade `as_of`: the newest promoted ones, or those of the training run `run`.

    Raises ModelError where none was promoted by then, or the run was trained after `as_of`.
    """
    if run is not None:
        versions = tracking.versions_of_run(store, run)
        late = [version for version in versions.values() if version.trained_as_of > as_of]
        if late:
            raise ModelError(
                f"Run {run} was trained as of {late[0].trained_as_of}, after {as_of}: it has seen the future. "
                "Name an earlier run, or grade a later month."
            )
    else:
        found = {name: tracking.champion(store, name, as_of) for name in tracking.MODEL_NAMES}
        versions = {name: version for name, version in found.items() if version is not None}
    if "lifetime-value" not in versions or "grading" not in versions:
        raise ModelError(
            f"No promoted model of {store.company} trained as of {as_of} or before. "
            f"Run: python pipelines/train.py --config <file> --as-of {as_of}"
        )
    return versions


def load(store: tracking.Store, versions: Mapping[str, tracking.ModelVersion]) -> Champions:
    """The models behind `versions`, every file verified against its manifest first."""
    grading = Grading.from_files(tracking.load_files(store, versions["grading"]))
    # The grading of a later month than a champion has no scale for it where the data for it have gone since.
    speaking = [
        name
        for name, criterion in CRITERION.items()
        if name in versions
        and (criterion in grading.scales or versions[name].trained_as_of >= versions["grading"].trained_as_of)
    ]
    models = {name: read_model(name, tracking.load_files(store, versions[name])) for name in speaking}
    return Champions(
        Models(models["lifetime-value"], models.get("payment-delay"), models.get("prospect-value")),
        grading,
        {name: versions[name].version for name in (*speaking, "grading")},
        versions["grading"].run_id,
    )


def of_versions(store: tracking.Store, versions: Mapping[str, str]) -> Champions:
    """The models and scales with these registered versions, by model name: those that graded an earlier month.

    Raises ModelError where one of them is gone, or its files are not what was registered.
    """
    found = {name: tracking.version_of(store, name, version) for name, version in versions.items()}
    gone = [f"{name} {versions[name]}" for name, version in found.items() if version is None]
    if gone:
        raise ModelError(f"expected the models that graded the month before, found no {', '.join(gone)}.")
    return load(store, {name: version for name, version in found.items() if version is not None})


def _invented(model: Any) -> pd.DataFrame:
    """One made-up row of what a model reads: MLflow shows it, and no customer's figures may leave the house."""
    if isinstance(model, LifetimeValue):
        numbers = [*FEATURES, *BTYD_INPUTS]
        row: dict[str, Any] = {feature.name: 1.0 for feature in numbers} | {"cost_to_serve_12m": 0.0}
        return pd.DataFrame([{"customer_id": "example"} | row | _attributes(model.encoder)])
    if isinstance(model, ProspectValue):
        known = dict.fromkeys(model.segment, "example") if model.segment else _attributes(model.encoder)
        return pd.DataFrame([{"customer_id": "example", AGE.name: 30.0} | known])
    if isinstance(model, PaymentDelay):
        counts = {name: 1.0 for pair in RATIOS.values() for name in pair}
        read = {name: 1.0 for name in PAYMENT_NAMES if name not in RATIOS}
        return pd.DataFrame([{"segment": "example"} | counts | read])
    return pd.DataFrame([{"on_time_share_ratio": 0.9}])


def _attributes(encoder: AttributeEncoder) -> dict[str, Any]:
    examples = {"category": "example", "number": 1.0, "flag": True}
    return {column.name: examples[column.type] for column in encoder.columns}
