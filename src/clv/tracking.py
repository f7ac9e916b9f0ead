"""Training runs and the model registry, in MLflow: the only module that imports it, and only when used.

A model is registered as text files under a SHA-256 manifest (see `clv.pyfunc`) and handed out only after they
have been verified. Versions carry `trained_as_of`; the champion of a date is the newest promoted version not
trained after it, so a back-fill never uses a later model. Everything goes through an explicit client: no
module-wide store, run or experiment is set.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from clv.errors import ConfigError, ModelError
from clv.pyfunc import PREDICTORS, read_folder, write_folder

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

MODEL_NAMES = tuple(PREDICTORS)

# Set before MLflow is imported; whoever has set one of them keeps it.
_ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",  # it resolves the whole environment: 27 s a model
    "MLFLOW_UV_AUTO_DETECT": "false",
}

# What a model's files are read with. `clv` itself is installed from its repository: naming it here would let
# a serving environment fetch whatever a package index holds under that name.
_REQUIREMENTS = ("lightgbm", "mlflow", "numpy", "pandas", "scipy")

_BATCH = 100  # MLflow's limit for parameters in one call


@dataclass(frozen=True)
class Store:
    """Where one company's runs and models are kept; made by `open_store`."""

    company: str
    tracking_uri: str
    artifact_dir: Path

    @property
    def database(self) -> Path | None:
        """The local SQLite file; None where a server keeps the runs."""
        return _database(self.tracking_uri)


@dataclass(frozen=True)
class ModelVersion:
    """One registered version of a model: `name` is `{company}-{model name}`, `version` counts from "1"."""

    name: str
    version: str
    trained_as_of: date
    run_id: str
    tags: Mapping[str, str] = field(repr=False)

    @property
    def is_promoted(self) -> bool:
        return self.tags.get("promoted") == "true"


def open_store(company: str, tracking_uri: str, artifact_dir: Path | str) -> Store:
    """The store of `company`, ready for use; the environment's MLFLOW_TRACKING_URI wins over `tracking_uri`.

    A relative `sqlite:///` path is taken from the current folder. The local database is initialised once,
    under a lock beside it (processes that meet on a fresh file would break it for good), and the experiment
    named after the company keeps its artefacts under `artifact_dir`; a server keeps them where it likes.
    Under `mlflow run` (MLFLOW_RUN_ID is set) both exist already and are left alone.
    Raises ConfigError for a company or store that cannot be used.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", company):
        raise ConfigError(
            f"expected a company of letters, digits, '.', '_', '-', found {company!r}. Rename it."
        )
    uri = _absolute(os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri)
    store = Store(company, uri, Path(artifact_dir).resolve())
    if "MLFLOW_RUN_ID" not in os.environ:
        _mlflow()  # seconds, which nobody should wait for under the lock
        with _locked(store):
            _experiment_id(store)
    return store


class Run:
    """A run being logged; made by `training_run`. Paths are relative to the run's artefacts."""

    def __init__(self, store: Store, run_id: str, experiment_id: str) -> None:
        self.run_id = run_id
        self._store = store
        self._experiment_id = experiment_id
        self._client = _client(store.tracking_uri)

    def log_metrics(self, metrics: Mapping[str, float | None]) -> None:
        """Logs the finite ones of `metrics`; a figure that could not be measured is simply absent."""
        self._log_metrics(metrics)

    def log_text(self, text: str, path: str) -> None:
        """Logs `text` as the file `path`."""
        self._client.log_text(self.run_id, text, path)

    def log_table(self, df: pd.DataFrame, path: str) -> None:
        """Logs `df` as the table `path`, which ends in `.json` and is shown as a table in MLflow."""
        with _pandas_as_mlflow_knows_it():
            self._client.log_table(self.run_id, df, path)

    def log_figure(self, fig: matplotlib.figure.Figure, path: str) -> None:
        """Logs `fig` as the picture `path`, whose ending (`.png`, `.svg`) says the format."""
        self._client.log_figure(self.run_id, fig, path)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Logs the resolved configuration as `config.yaml`, its keys in their order: that of the tiers matters."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        self._client.log_text(self.run_id, text, "config.yaml")

    def register(
        self,
        model_name: str,
        files: Mapping[str, str],
        *,
        trained_as_of: date,
        input_example: pd.DataFrame | None,
        output_example: pd.DataFrame | None,
        metrics: Mapping[str, float | None],
        tags: Mapping[str, str],
    ) -> ModelVersion:
        """Registers a model's `files` (name -> text) as the next version of `{company}-{model_name}`.

        The version becomes the `challenger` and is not promoted. The examples are invented rows (never a
        customer's); with them the version has a signature, numbers being float64 throughout so that a missing
        value never changes a type. The metrics are logged in the run as `{model_name}/{metric}`.
        Raises ModelError for an unknown model name or unusable files.
        """
        mlflow = _mlflow()
        name = f"{self._store.company}-{model_name}"
        with tempfile.TemporaryDirectory(prefix="clv-model-") as scratch:
            content = Path(scratch, "content")
            manifest_sha256 = write_folder(content, model_name, files)
            logged = self._client.create_logged_model(
                self._experiment_id, name=name, source_run_id=self.run_id, model_type=model_name
            )
            folder = Path(scratch, "model")
            _save(folder, content, logged, self.run_id, input_example, output_example)
            self._client.log_model_artifacts(logged.model_id, str(folder))
        self._client.finalize_logged_model(logged.model_id, "READY")
        self._client.log_outputs(self.run_id, [mlflow.entities.LoggedModelOutput(logged.model_id, step=0)])
        self._log_metrics({f"{model_name}/{key}": value for key, value in metrics.items()}, logged.model_id)
        with contextlib.suppress(mlflow.exceptions.MlflowException):  # it exists from the second version on
            self._client.create_registered_model(name, tags={"company": self._store.company})
        version_tags = {str(key): str(value) for key, value in tags.items()} | {
            "trained_as_of": trained_as_of.isoformat(),
            "promoted": "false",
            "run_id": self.run_id,
            "manifest_sha256": manifest_sha256,
        }
        created = self._client.create_model_version(
            name,
            logged.artifact_location,  # `models:/…` would be looked up in MLflow's module-wide store
            run_id=self.run_id,
            tags=version_tags,
            model_id=logged.model_id,
        )
        self._client.set_registered_model_alias(name, "challenger", created.version)
        return ModelVersion(name, str(created.version), trained_as_of, self.run_id, version_tags)

    def _log_metrics(self, metrics: Mapping[str, float | None], model_id: str | None = None) -> None:
        metric = _mlflow().entities.Metric
        now = int(time.time() * 1000)
        finite = [
            metric(key, float(value), now, 0, model_id=model_id)
            for key, value in metrics.items()
            if value is not None and math.isfinite(value)
        ]
        for start in range(0, len(finite), _BATCH):
            self._client.log_batch(self.run_id, metrics=finite[start : start + _BATCH])


@contextlib.contextmanager
def training_run(
    store: Store, name: str, *, params: Mapping[str, object], tags: Mapping[str, object]
) -> Iterator[Run]:
    """A run called `name` with its parameters and tags: FINISHED at the end of the block, FAILED on an error.

    Of a training, a month or a back-test: the tag `kind` says which. Under `mlflow run` it is the run MLflow has opened
    (MLFLOW_RUN_ID), whose own parameters are kept; what is logged after it in the same process (the month after its
    training) has a run of its own, nested in that one.
    Raises ModelError where that run is not in the store.
    """
    mlflow = _mlflow()
    client = _client(store.tracking_uri)
    resumed = os.environ.get("MLFLOW_RUN_ID")
    try:
        run = client.get_run(resumed) if resumed else client.create_run(_experiment_id(store), run_name=name)
    except _mlflow().exceptions.MlflowException as error:
        raise ModelError(
            f"expected a run in {store.tracking_uri}, found: {error.message} "
            "Start `mlflow run` with the MLFLOW_TRACKING_URI of this store."
        ) from error
    run_id = run.info.run_id
    if resumed and _belongs_to_another(run.data.tags, tags):
        run = client.create_run(run.info.experiment_id, run_name=name, tags={"mlflow.parentRunId": resumed})
        run_id = run.info.run_id
    elif resumed:
        client.update_run(run_id, status="RUNNING", name=name)
    param, tag = mlflow.entities.Param, mlflow.entities.RunTag
    new_params = [param(key, str(value)) for key, value in params.items() if key not in run.data.params]
    try:
        client.log_batch(run_id, tags=[tag(key, str(value)) for key, value in tags.items()])
        for start in range(0, len(new_params), _BATCH):
            client.log_batch(run_id, params=new_params[start : start + _BATCH])
        yield Run(store, run_id, run.info.experiment_id)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def _belongs_to_another(logged: Mapping[str, str], tags: Mapping[str, object]) -> bool:
    """Whether the run that MLflow opened holds something else already: another kind of run, or another date's."""
    return any(name in logged and logged[name] != str(tags.get(name)) for name in ("kind", "as_of"))


def promote(store: Store, version: ModelVersion, why: str) -> None:
    """Marks `version` as promoted, with the reason.

    The alias `champion` then names the newest promoted version, so promoting a model of an older month does
    not take the alias from a later one.
    """
    client = _client(store.tracking_uri)
    for key, value in {"promoted": "true", "why": why}.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    known = _versions(store, f"name = '{version.name}'")
    newest = max((other for other in known if other.is_promoted), key=_age)
    client.set_registered_model_alias(version.name, "champion", newest.version)


def champion(store: Store, model_name: str, as_of: date) -> ModelVersion | None:
    """The newest promoted version of a model with `trained_as_of` on or before `as_of`; None where none is.

    Of several trained as of the same date the highest version counts.
    """
    known = _versions(store, f"name = '{store.company}-{model_name}'")
    usable = [version for version in known if version.is_promoted and version.trained_as_of <= as_of]
    return max(usable, key=_age, default=None)


def versions_of_run(store: Store, run_id: str) -> dict[str, ModelVersion]:
    """What the run `run_id` registered for this company, by model name; ModelError where that is nothing."""
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise ModelError(f"expected a run id of 32 hexadecimal digits, found {run_id!r}.")
    registered = {
        version.name: version for version in sorted(_versions(store, f"run_id = '{run_id}'"), key=_age)
    }
    found = {
        model_name: registered[f"{store.company}-{model_name}"]
        for model_name in MODEL_NAMES
        if f"{store.company}-{model_name}" in registered
    }
    if not found:
        raise ModelError(
            f"expected models of {store.company} in run {run_id}, found {', '.join(registered) or 'none'} "
            f"in {store.tracking_uri}. Name a training run of this company."
        )
    return found


def version_of(store: Store, model_name: str, version: str) -> ModelVersion | None:
    """The registered version `version` of a model; None where it is gone."""
    known = _versions(store, f"name = '{store.company}-{model_name}'")
    return next((found for found in known if found.version == version), None)


def load_files(store: Store, version: ModelVersion) -> dict[str, str]:
    """The files (name -> text) of a registered model, verified before any of them is handed out.

    The manifest must have the hash in the version's tag, and every file the hash in the manifest, none
    missing and none extra. Raises ModelError naming the file and both hashes otherwise.
    """
    mlflow = _mlflow()
    client = _client(store.tracking_uri)
    manifest_sha256 = version.tags.get("manifest_sha256")
    if manifest_sha256 is None:
        raise ModelError(
            f"expected the tag manifest_sha256 on {version.name} version {version.version}, found none. "
            "It was not registered by this project; train and promote again."
        )
    uri = f"models:/{version.name}/{version.version}"
    with tempfile.TemporaryDirectory(prefix="clv-model-") as scratch:
        try:
            location = client.get_model_version_download_uri(version.name, version.version)
            folder = mlflow.artifacts.download_artifacts(
                f"{location}/data/content", dst_path=scratch, tracking_uri=store.tracking_uri
            )
        except (mlflow.exceptions.MlflowException, OSError) as error:
            raise ModelError(
                f"expected the files of {uri} in {store.tracking_uri}, found: {error}. "
                "Artefact paths are absolute: was the store moved? Otherwise train and promote again."
            ) from error
        try:
            kind, files = read_folder(Path(folder), manifest_sha256)
        except ModelError as error:
            raise ModelError(f"{uri}: {error}") from error
    if version.name != f"{store.company}-{kind}":
        raise ModelError(f"expected a model of {store.company} of kind {kind}, found {version.name}.")
    return files


def _mlflow() -> Any:
    """MLflow, imported when first used (3 to 6 s) and with its settings made before."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's modules warn about their own definitions
        import mlflow
        import mlflow.artifacts
        import mlflow.pyfunc
        import mlflow.store.tracking.sqlalchemy_store
    return mlflow


@contextlib.contextmanager
def _pandas_as_mlflow_knows_it() -> Iterator[None]:
    """MLflow's table code relies on pandas 3 behaviour that pandas 4 will change, and pandas says so."""
    from pandas.errors import Pandas4Warning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Pandas4Warning)
        yield


@lru_cache(maxsize=8)
def _client(tracking_uri: str) -> Any:
    """MLflow's client of the store; ConfigError where the address cannot be used."""
    mlflow = _mlflow()
    try:
        return mlflow.MlflowClient(tracking_uri)
    except mlflow.exceptions.MlflowException as error:
        raise ConfigError(
            f"expected a tracking store MLflow can open, found {tracking_uri!r}: {error.message} "
            "Set mlflow.tracking_uri or MLFLOW_TRACKING_URI."
        ) from error


def _absolute(tracking_uri: str) -> str:
    database = _database(tracking_uri)
    return tracking_uri if database is None else f"sqlite:///{database.resolve()}"


def _database(tracking_uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(tracking_uri.removeprefix(prefix)) if tracking_uri.startswith(prefix) else None


@contextlib.contextmanager
def _locked(store: Store) -> Iterator[None]:
    """Holds the lock beside the local database; a server needs none."""
    if store.database is None:
        yield
        return
    store.database.parent.mkdir(parents=True, exist_ok=True)
    with open(store.database.with_suffix(".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, also by a process that dies
        yield


def _experiment_id(store: Store) -> str:
    """The id of the company's experiment, which is made where it is missing."""
    client = _client(store.tracking_uri)
    experiment = client.get_experiment_by_name(store.company)
    if experiment is None:
        location = None if store.database is None else (store.artifact_dir / store.company).as_uri()
        try:
            return str(client.create_experiment(store.company, artifact_location=location))
        except _mlflow().exceptions.MlflowException:  # on a server somebody else may have been quicker
            experiment = client.get_experiment_by_name(store.company)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise ConfigError(
            f"expected the experiment {store.company} in {store.tracking_uri}, found it deleted. "
            f"Restore it: mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def _versions(store: Store, where: str) -> list[ModelVersion]:
    """The versions this project registered (others carry no `trained_as_of`) under MLflow's filter `where`."""
    client = _client(store.tracking_uri)
    page = client.search_model_versions(where)
    found = list(page)
    while page.token:
        page = client.search_model_versions(where, page_token=page.token)
        found.extend(page)
    return [
        ModelVersion(
            v.name, str(v.version), date.fromisoformat(v.tags["trained_as_of"]), v.run_id, dict(v.tags)
        )
        for v in found
        if "trained_as_of" in v.tags
    ]


def _age(version: ModelVersion) -> tuple[date, int]:
    return version.trained_as_of, int(version.version)


def _save(
    folder: Path,
    content: Path,
    logged: Any,
    run_id: str,
    input_example: pd.DataFrame | None,
    output_example: pd.DataFrame | None,
) -> None:
    """Writes the MLflow model `folder`: the files in `content`, who loads them, and the signature."""
    mlflow = _mlflow()
    described = mlflow.models.Model(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
        run_id=run_id,
        metadata={"clv": installed_version("clv")},
    )
    signature = example = None
    with _pandas_as_mlflow_knows_it():
        if input_example is not None:
            example = _float64(input_example)
            output = None if output_example is None else _float64(output_example)
            signature = mlflow.models.infer_signature(example, output)
        mlflow.pyfunc.save_model(
            str(folder),
            loader_module="clv.pyfunc",
            data_path=str(content),
            mlflow_model=described,
            signature=signature,
            input_example=example,
            pip_requirements=[f"{name}=={installed_version(name)}" for name in _REQUIREMENTS],
        )


def _float64(frame: pd.DataFrame) -> pd.DataFrame:
    numbers = frame.select_dtypes(["number", "bool"]).columns
    return frame.astype(dict.fromkeys(numbers, "float64"))
