"""Runs and the model registry on a real local store: who is champion when, and what is refused."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from clv import tracking
from clv.config import PaymentSettings
from clv.errors import ConfigError, ModelError
from clv.models import payment_curve, payment_delay, payment_features
from clv.pyfunc import PREDICTORS

FILES = {"model.txt": "tree\nversion=v4\n", "scaling.json": '{"mean": 1.5}'}
JANUARY, FEBRUARY, MARCH = date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly initialised database: MLflow needs seconds to make one."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        tracking.open_store("another", f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tracking.Store:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    shutil.copy(empty_database, "models/mlflow.db")
    return tracking.open_store("demo", "sqlite:///models/mlflow.db", "models/artifacts")


def register(
    store: tracking.Store,
    trained_as_of: date,
    model_name: str = "lifetime-value",
    files: dict[str, str] | None = None,
    promoted: bool = True,
) -> tracking.ModelVersion:
    with tracking.training_run(store, f"train {trained_as_of}", params={}, tags={}) as run:
        version = run.register(
            model_name,
            files or FILES,
            trained_as_of=trained_as_of,
            input_example=pd.DataFrame({"frequency": [3], "recency_days": [40.0]}),
            output_example=pd.DataFrame({"clv": [120.0]}),
            metrics={"normalised_gini": 0.7, "bias_ratio": None},
            tags={"fallback": "false"},
        )
    if promoted:
        tracking.promote(store, version, "better than last_period")
    return version


def client(store: tracking.Store) -> Any:
    import mlflow

    return mlflow.MlflowClient(store.tracking_uri)


def content(store: tracking.Store) -> Path:
    """The folder in which the only registered model's files lie."""
    (manifest,) = store.artifact_dir.rglob("manifest.json")
    return manifest.parent


# Where to track


def test_store_is_made_where_the_relative_address_says(store: tracking.Store, tmp_path: Path) -> None:
    assert store.tracking_uri == f"sqlite:///{tmp_path / 'models/mlflow.db'}"
    experiment = client(store).get_experiment_by_name("demo")
    assert experiment.artifact_location == (tmp_path / "models/artifacts/demo").as_uri()


def test_tracking_address_in_the_environment_wins(
    store: tracking.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri)
    elsewhere = tracking.open_store("demo", "sqlite:///elsewhere/mlflow.db", tmp_path / "models/artifacts")
    assert elsewhere == store
    assert not Path("elsewhere").exists()


def test_importing_tracking_does_not_import_mlflow() -> None:
    program = "import sys, clv.tracking; print([m for m in ('mlflow', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("company", "uri"),
    [("de'mo", "sqlite:///models/mlflow.db"), ("", "sqlite:///models/mlflow.db"), ("demo", "gopher://x/y")],
)
def test_unusable_company_or_store_is_a_configuration_error(
    store: tracking.Store, company: str, uri: str
) -> None:
    with pytest.raises(ConfigError, match=r"expected .* found"):
        tracking.open_store(company, uri, "models/artifacts")


def test_deleted_experiment_is_named_with_the_way_back(store: tracking.Store) -> None:
    client(store).delete_experiment(client(store).get_experiment_by_name("demo").experiment_id)
    with pytest.raises(ConfigError, match="mlflow experiments restore"):
        tracking.open_store("demo", store.tracking_uri, store.artifact_dir)


FOUR_AT_ONCE = """
import os, sys, traceback
from datetime import date
from clv import tracking

tracking._mlflow()  # once, so that the four meet at the empty file and not at the import
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        try:
            store = tracking.open_store("demo", "sqlite:///models/mlflow.db", "models/artifacts")
            assert tracking.champion(store, "grading", date(2026, 1, 1)) is None
            with tracking.training_run(store, "train", params={"seed": 7}, tags={}):
                os.write(1, (store.company + "\\n").encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(child)
failed = [child for child in children if os.waitpid(child, 0)[1]]
print(len(failed), os.environ["MLFLOW_LOGGING_LEVEL"], os.environ["MLFLOW_DISABLE_TELEMETRY"])
"""


@pytest.mark.slow
def test_four_processes_opening_a_fresh_store_at_once_all_succeed(tmp_path: Path) -> None:
    unset = {"MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_DISABLE_TELEMETRY"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment["MLFLOW_LOGGING_LEVEL"] = "ERROR"  # a user's own setting stays
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FOUR_AT_ONCE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    *companies, last = done.stdout.splitlines()
    assert last == "0 ERROR true"
    assert companies == ["demo"] * 4
    assert done.stderr == ""  # nothing of MLflow's on the terminal


# Runs


def test_run_keeps_what_was_logged(store: tracking.Store) -> None:
    from matplotlib.figure import Figure

    table = pd.DataFrame({"model": ["model", "last_period"], "normalised_gini": [0.7, 0.6]})
    with tracking.training_run(store, "train", params={"seed": 7}, tags={"config_hash": "abc"}) as run:
        run.log_metrics({"rows": 2000, "auc": float("nan"), "brier": None})
        run.log_text("hello", "notes/hello.txt")
        run.log_table(table, "metrics.json")
        run.log_figure(Figure(), "figures/empty.png")
        run.log_config({"company": "demo", "as_of": JANUARY})
        running = client(store).get_run(run.run_id)
        assert running.info.status == "RUNNING"
    logged = client(store).get_run(run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "train"
    assert logged.data.params == {"seed": "7"}
    assert logged.data.metrics == {"rows": 2000.0}
    assert logged.data.tags["config_hash"] == "abc"
    (folder,) = (store.artifact_dir / "demo").glob(f"{run.run_id}/artifacts")
    assert (folder / "notes/hello.txt").read_text() == "hello"
    assert json.loads((folder / "metrics.json").read_text())["columns"] == list(table.columns)
    assert (folder / "figures/empty.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"company": "demo", "as_of": JANUARY}


def test_more_parameters_and_metrics_than_one_call_takes(store: tracking.Store) -> None:
    with tracking.training_run(store, "train", params={f"p{i}": i for i in range(250)}, tags={}) as run:
        run.log_metrics({f"m{i}": i for i in range(1250)})
    logged = client(store).get_run(run.run_id)
    assert len(logged.data.params) == 250
    assert len(logged.data.metrics) == 1250


def test_run_that_raises_is_marked_failed(store: tracking.Store) -> None:
    with (
        pytest.raises(ModelError, match="no repeat buyers"),
        tracking.training_run(store, "t", params={}, tags={}) as run,
    ):
        raise ModelError("no repeat buyers")
    assert client(store).get_run(run.run_id).info.status == "FAILED"


def test_run_opened_by_mlflow_run_is_resumed(store: tracking.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment_id = client(store).create_experiment("opened-by-mlflow-run")
    opened = client(store).create_run(experiment_id)
    client(store).log_param(opened.info.run_id, "as_of", "2026-01-01")
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri)
    again = tracking.open_store("newcomer", "sqlite:///elsewhere/mlflow.db", "elsewhere")
    assert client(store).get_experiment_by_name("newcomer") is None
    with tracking.training_run(again, "train", params={"as_of": JANUARY, "seed": 7}, tags={}) as run:
        pass
    assert run.run_id == opened.info.run_id
    logged = client(store).get_run(run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.params == {"as_of": "2026-01-01", "seed": "7"}
    assert not Path("elsewhere").exists()


def test_under_mlflow_run_what_follows_the_training_is_nested_in_the_run_mlflow_opened(
    store: tracking.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = client(store).create_run(tracking._experiment_id(store))
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri)
    logged = []
    for kind, day in (("train", JANUARY), ("score", JANUARY), ("score", MARCH), ("train", JANUARY)):
        tags = {"kind": kind, "as_of": day}
        with tracking.training_run(store, f"{kind} {day}", params={"as_of": day}, tags=tags) as run:
            logged.append(run.run_id)
    train, score, later, again = logged
    assert train == again == opened.info.run_id
    assert len({train, score, later}) == 3
    for nested, day in ((score, JANUARY), (later, MARCH)):
        found = client(store).get_run(nested)
        assert found.data.tags["mlflow.parentRunId"] == opened.info.run_id
        assert (found.data.tags["kind"], found.data.params["as_of"]) == ("score", str(day))
        assert found.info.experiment_id == opened.info.experiment_id
        assert found.info.status == "FINISHED"
    assert client(store).get_run(train).data.tags["kind"] == "train"


def test_run_of_another_store_is_a_model_error(
    store: tracking.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with (
        pytest.raises(ModelError, match="MLFLOW_TRACKING_URI"),
        tracking.training_run(store, "train", params={}, tags={}),
    ):
        pass


# Champions


def test_registered_version_is_a_challenger_until_promoted(store: tracking.Store) -> None:
    version = register(store, JANUARY, promoted=False)
    assert (version.name, version.version, version.trained_as_of) == ("demo-lifetime-value", "1", JANUARY)
    assert version.tags["promoted"] == "false"
    assert version.tags["run_id"] == version.run_id
    assert client(store).get_model_version_by_alias(version.name, "challenger").version == 1
    assert tracking.champion(store, "lifetime-value", MARCH) is None
    tracking.promote(store, version, "better than last_period")
    champion = tracking.champion(store, "lifetime-value", MARCH)
    assert champion is not None
    assert champion.version == "1"
    assert champion.tags["why"] == "better than last_period"
    assert client(store).get_model_version_by_alias(version.name, "champion").version == 1


def test_backfill_never_uses_a_later_model(store: tracking.Store) -> None:
    register(store, FEBRUARY)
    assert tracking.champion(store, "lifetime-value", JANUARY) is None
    register(store, JANUARY)
    chosen = {
        as_of: tracking.champion(store, "lifetime-value", as_of).trained_as_of  # type: ignore[union-attr]
        for as_of in (JANUARY, date(2026, 1, 31), FEBRUARY, MARCH)
    }
    assert chosen == {JANUARY: JANUARY, date(2026, 1, 31): JANUARY, FEBRUARY: FEBRUARY, MARCH: FEBRUARY}


def test_champion_alias_stays_with_the_newest_month(store: tracking.Store) -> None:
    february, january = register(store, FEBRUARY), register(store, JANUARY)
    assert january.version == "2"
    alias = client(store).get_model_version_by_alias(february.name, "champion")
    assert str(alias.version) == february.version


def test_highest_version_wins_within_one_month(store: tracking.Store) -> None:
    for _ in range(11):  # "9" > "11" as text
        last = register(store, JANUARY)
    register(store, JANUARY, promoted=False)
    champion = tracking.champion(store, "lifetime-value", JANUARY)
    assert champion is not None
    assert champion.version == last.version == "11"


def test_models_of_one_run_by_name(store: tracking.Store) -> None:
    other = tracking.open_store("demo-two", store.tracking_uri, store.artifact_dir)
    with tracking.training_run(store, "train", params={}, tags={}) as run:
        for model_name in ("payment-delay", "grading"):
            run.register(
                model_name,
                FILES,
                trained_as_of=JANUARY,
                input_example=None,
                output_example=None,
                metrics={"auc": 0.8},
                tags={},
            )
    found = tracking.versions_of_run(store, run.run_id)
    assert {name: version.name for name, version in found.items()} == {
        "payment-delay": "demo-payment-delay",
        "grading": "demo-grading",
    }
    assert client(store).get_run(run.run_id).data.metrics == {"payment-delay/auc": 0.8, "grading/auc": 0.8}
    with pytest.raises(ModelError, match="models of demo-two"):
        tracking.versions_of_run(other, run.run_id)
    with pytest.raises(ModelError, match="32 hexadecimal digits"):
        tracking.versions_of_run(store, "x' OR name LIKE '%")


# Files


def test_files_come_back_as_registered(store: tracking.Store) -> None:
    files = {"model.txt": "a\r\nb\n", "names.json": '"Ærø 東京"'}
    version = register(store, JANUARY, files=files)
    assert tracking.load_files(store, version) == files


def test_manifest_lists_kind_and_hashes_and_its_own_hash_is_a_tag(store: tracking.Store) -> None:
    version = register(store, JANUARY)
    manifest = (content(store) / "manifest.json").read_bytes()
    assert json.loads(manifest) == {
        "kind": "lifetime-value",
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in FILES.items()},
    }
    assert version.tags["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()


def rewrite(folder: Path) -> None:
    (folder / "model.txt").write_text("tree\nversion=v5\n")


def remove(folder: Path) -> None:
    (folder / "scaling.json").unlink()


def add(folder: Path) -> None:
    (folder / "more.json").write_text("{}")


def add_folder(folder: Path) -> None:
    (folder / "more").mkdir()


def rewrite_with_manifest(folder: Path) -> None:
    rewrite(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.txt"] = hashlib.sha256((folder / "model.txt").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (rewrite, r"model\.txt: expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"),
        (remove, r"scaling\.json: expected SHA-256 [0-9a-f]{64}, found no file"),
        (add, r"more\.json: expected no such file, found [0-9a-f]{64}"),
        (add_folder, "more: expected no such file"),
        (rewrite_with_manifest, r"manifest\.json: expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"),
        (remove_manifest, r"expected manifest\.json, found model\.txt, scaling\.json"),
        (shutil.rmtree, "expected the files of models:/demo-lifetime-value/1"),
    ],
)
def test_tampered_artefacts_are_refused(
    store: tracking.Store, tamper: Callable[[Path], None], named: str
) -> None:
    version = register(store, JANUARY)
    tamper(content(store))
    with pytest.raises(ModelError, match=named):
        tracking.load_files(store, version)


def test_model_of_another_company_is_refused(store: tracking.Store) -> None:
    version = register(store, JANUARY)
    other = tracking.open_store("other", store.tracking_uri, store.artifact_dir)
    with pytest.raises(ModelError, match="expected a model of other"):
        tracking.load_files(other, version)


@pytest.mark.parametrize("files", [{}, {"../up.json": "{}"}, {"manifest.json": "{}"}, {"a\\b.json": "{}"}])
def test_unusable_files_are_not_registered(store: tracking.Store, files: dict[str, str]) -> None:
    with (
        pytest.raises(ModelError, match="expected"),
        tracking.training_run(store, "train", params={}, tags={}) as run,
    ):
        run.register(
            "grading",
            files,
            trained_as_of=JANUARY,
            input_example=None,
            output_example=None,
            metrics={},
            tags={},
        )


def test_unknown_model_name_is_refused(store: tracking.Store) -> None:
    with pytest.raises(ModelError, match="'churn'"):
        register(store, JANUARY, model_name="churn")


def test_no_pickle_and_no_code_is_ever_written(store: tracking.Store) -> None:
    for model_name in tracking.MODEL_NAMES:
        register(store, JANUARY, model_name)
    written = [path for path in store.artifact_dir.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} <= {"", ".json", ".txt", ".yaml"}
    assert {path.name for path in written if not path.suffix} == {"MLmodel"}
    for path in written:
        path.read_bytes().decode()  # text throughout
        assert not path.read_bytes().startswith(b"\x80")  # a pickle's first byte


def test_signature_has_float64_numbers_only(store: tracking.Store) -> None:
    register(store, JANUARY)
    (described,) = store.artifact_dir.rglob("MLmodel")
    signature = yaml.safe_load(described.read_text())["signature"]
    assert [column["type"] for column in json.loads(signature["inputs"])] == ["double", "double"]
    assert [column["type"] for column in json.loads(signature["outputs"])] == ["double"]


# MLflow's own door


@pytest.fixture
def registry(store: tracking.Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow pointed at the store, as a user of `mlflow.pyfunc` does it."""
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri)
    mlflow.set_tracking_uri(store.tracking_uri)
    yield
    mlflow.set_tracking_uri(None)


def payment_model() -> Any:
    """A payment model on noise: what it learned does not matter here, that it is LightGBM does."""
    import lightgbm as lgb

    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(200, len(payment_features.NAMES)))
    edges = payment_curve.edges_of(PaymentSettings())
    late, trees = (
        lgb.train(
            {"objective": objective, "num_leaves": 4, "num_threads": 1, "seed": 1, "verbose": -1},
            lgb.Dataset(X, label=(inputs[:, 0] > 0).astype(float)),
            num_boost_round=5,
        )
        for objective, X in (
            ("binary", inputs),
            ("poisson", np.column_stack([inputs, rng.choice(edges, 200)])),
        )
    )
    shrinkages = tuple(
        payment_features.Shrinkage(name, 0.2, {"retail": 0.3}, 10.0) for name in payment_features.RATIOS
    )
    return payment_delay.PaymentDelay(
        late=late,
        chances=payment_curve.Chances(trees, -3.0, edges),
        shrinkages=shrinkages,
        logit_shift=0.1,
        reference=np.zeros(inputs.shape[1]),
        late_after_days=30,
        cap_days=180,
        support=(payment_delay.Support(30, 200, 90, True),),
        detail={"invoices": 200.0},
    )


def test_mlflow_loads_a_lightgbm_model_without_pickles(store: tracking.Store, registry: None) -> None:
    import mlflow.pyfunc

    model = payment_model()
    rows = pd.DataFrame({name: [1.0, 45.0] for name in payment_features.INPUTS})
    rows = rows.assign(segment=["retail", "other"])
    expected = model.predict(rows)
    with tracking.training_run(store, "train", params={}, tags={}) as run:
        version = run.register(
            "payment-delay",
            model.to_files(),
            trained_as_of=JANUARY,
            input_example=rows,
            output_example=expected,
            metrics={},
            tags={},
        )
    tracking.promote(store, version, "first")
    loaded = mlflow.pyfunc.load_model("models:/demo-payment-delay@champion")
    pd.testing.assert_frame_equal(loaded.predict(rows), expected)
    restored = payment_delay.PaymentDelay.from_files(tracking.load_files(store, version))
    pd.testing.assert_frame_equal(restored.predict(rows), expected)


@pytest.mark.parametrize("model_name", [name for name, where in PREDICTORS.items() if where])
def test_every_kind_of_model_names_what_reads_it(model_name: str) -> None:
    module, reader = PREDICTORS[model_name]  # type: ignore[misc]
    assert callable(attrgetter(reader)(importlib.import_module(module)))


def test_mlflow_loads_a_grading_that_does_not_predict(store: tracking.Store, registry: None) -> None:
    import mlflow.pyfunc

    register(store, JANUARY, "grading")
    loaded = mlflow.pyfunc.load_model("models:/demo-grading@champion")
    assert loaded.metadata.get_input_schema().input_names() == ["frequency", "recency_days"]
    with pytest.raises(ModelError, match="holds scales and tier edges"):
        loaded.predict(pd.DataFrame({"frequency": [3.0], "recency_days": [40.0]}))


def test_mlflow_refuses_tampered_artefacts(store: tracking.Store, registry: None) -> None:
    import mlflow.pyfunc

    register(store, JANUARY)
    rewrite(content(store))
    with pytest.raises(ModelError, match=r"model\.txt"):
        mlflow.pyfunc.load_model("models:/demo-lifetime-value/1")


# Entry points


def test_entry_points_call_programs_with_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    assert set(project["entry_points"]) == {"main", "train", "score", "backtest", "simulate"}
    for name, entry in project["entry_points"].items():
        words = entry["command"].split()
        assert words[0] == "python"
        assert words[1] == f"pipelines/{'monthly' if name == 'main' else name}.py"
        given = {word.strip("{}") for word in words if word.startswith("{")}
        assert given == set(entry["parameters"])
        assert words[2::2] == [f"--{word.strip('{}').replace('_', '-')}" for word in words[3::2]]
    environment = yaml.safe_load((ROOT / project["python_env"]).read_text())
    assert environment["python"] == "3.11"  # MLflow cannot find a patch level
