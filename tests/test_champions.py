"""Which model grades a month: through the gate, by date, and the fallback where no model may speak."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clv import champions, composite, tracking
from clv.config import Config
from clv.errors import ModelError
from clv.learn import Learned
from clv.models.lifetime_value import LifetimeValue
from clv.models.payment_record import PaymentRecord
from clv.models.prospect_value import ProspectValue

JANUARY, FEBRUARY, MARCH = date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)
NAMES = ("lifetime-value", "payment-delay", "prospect-value")
GRADING = composite.fit(
    {"lifetime_value": np.arange(1.0, 50.0)}, {"lifetime_value": "log"}, {}, trained_as_of=JANUARY
)


@dataclass(frozen=True)
class Month:
    """A training run of a test: what was learned, what was chosen, and the run that registered it."""

    run_id: str
    chosen: champions.Chosen


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly initialised database: MLflow needs seconds to make one."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        tracking.open_store("other", f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tracking.Store:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tracking.open_store("invented", f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")


@pytest.fixture
def registry(store: tracking.Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow pointed at the store, as a user of `mlflow.pyfunc` does it."""
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri)
    mlflow.set_tracking_uri(store.tracking_uri)
    yield
    mlflow.set_tracking_uri(None)


def last_period(why: str) -> LifetimeValue:
    present = pd.DataFrame({"value_365": [10.0, 20.0, 30.0], "is_active": True})
    return LifetimeValue.last_period(present, basis="revenue", horizon_days=365, why=why)


def segment_means(segment: list[str]) -> ProspectValue:
    config = Config.model_validate(
        {
            "company": "invented",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"path": "orders.csv"}, "customers": {"path": "customers.csv"}},
            "attributes": {"industry": {"type": "category", "known_at": "first_contact"}},
            "segment": segment,
        }
    )
    people = pd.DataFrame(
        {
            "customer_id": [f"P{i}" for i in range(40)],
            "days_since_first_contact": 10,
            "industry": ["food", "metal"] * 20,
        }
    )
    rows = people.assign(snapshot_date=pd.Timestamp("2025-06-01"), converted=[True, False, False, False] * 10)
    return ProspectValue.segment_means(rows, people.assign(value=100.0), config)


def learned(why: str, *, passed: bool = True) -> dict[str, Learned[Any] | None]:
    """A trained lifetime value known by its verdict; nothing else."""
    return {
        "lifetime-value": Learned(last_period(why), passed, why),
        "payment-delay": None,
        "prospect-value": None,
    }


def train(store: tracking.Store, as_of: date, found: Mapping[str, Learned[Any] | None]) -> Month:
    chosen = champions.choose(store, as_of, found)
    with tracking.training_run(store, f"train {as_of}", params={}, tags={}) as run:
        champions.register(store, run, as_of, chosen, found, GRADING)
    return Month(run.run_id, chosen)


def graded_by(store: tracking.Store, as_of: date, run: str | None = None) -> str:
    """Verdict of the lifetime-value model that grades a date."""
    return champions.load(store, champions.find(store, as_of, run)).models.lifetime_value.verdict


def test_a_model_that_passed_takes_over(store: tracking.Store) -> None:
    train(store, JANUARY, learned("of January"))
    month = train(store, FEBRUARY, learned("of February"))
    assert month.chosen.promoted == {"lifetime-value"}
    assert graded_by(store, FEBRUARY) == "of February"


def test_a_refused_challenger_does_not_replace_the_champion(store: tracking.Store) -> None:
    train(store, JANUARY, learned("of January"))
    month = train(store, FEBRUARY, learned("no skill", passed=False))
    assert month.chosen.promoted == frozenset()
    assert month.chosen.why["lifetime-value"] == "version 1 stays: no skill"
    assert month.chosen.models.lifetime_value.verdict == "of January"
    assert graded_by(store, FEBRUARY) == "of January"
    challenger = tracking.versions_of_run(store, month.run_id)["lifetime-value"]
    assert (challenger.version, challenger.tags["passed"], challenger.is_promoted) == ("2", "false", False)


def test_the_fallback_stands_in_where_the_first_model_is_refused(store: tracking.Store) -> None:
    month = train(store, JANUARY, learned("no skill", passed=False))
    assert month.chosen.promoted == {"lifetime-value"}
    assert month.chosen.why["lifetime-value"] == "fallback promoted: no skill"
    assert graded_by(store, JANUARY) == "no skill"


def test_a_model_gives_way_to_one_that_passes_after_a_fallback(store: tracking.Store) -> None:
    train(store, JANUARY, learned("no skill", passed=False))
    train(store, FEBRUARY, learned("of February"))
    assert (graded_by(store, JANUARY), graded_by(store, MARCH)) == ("no skill", "of February")


def test_a_back_fill_never_uses_a_later_model(store: tracking.Store) -> None:
    train(store, FEBRUARY, learned("of February"))
    with pytest.raises(ModelError, match="No promoted model of invented trained as of 2026-01-01 or before"):
        champions.find(store, JANUARY)
    train(store, JANUARY, learned("of January"))
    assert graded_by(store, JANUARY) == "of January"
    assert graded_by(store, MARCH) == "of February"


def test_a_back_fill_is_not_compared_with_a_later_champion(store: tracking.Store) -> None:
    train(store, FEBRUARY, learned("of February"))
    month = train(store, JANUARY, learned("no skill", passed=False))
    assert month.chosen.models.lifetime_value.verdict == "no skill"
    assert graded_by(store, JANUARY) == "no skill"


def test_a_named_run_grades_instead_of_the_champions(store: tracking.Store) -> None:
    earlier = train(store, JANUARY, learned("of January"))
    train(store, FEBRUARY, learned("of February"))
    assert graded_by(store, FEBRUARY, earlier.run_id) == "of January"


def test_who_graded_an_earlier_month_is_found_by_version_and_missed_by_name(store: tracking.Store) -> None:
    train(store, JANUARY, learned("of January"))
    train(store, FEBRUARY, learned("of February"))
    graded_january = champions.of_versions(store, {"lifetime-value": "1", "grading": "1"})
    assert graded_january.models.lifetime_value.verdict == "of January"
    with pytest.raises(ModelError, match="found no lifetime-value 9"):
        champions.of_versions(store, {"lifetime-value": "9", "grading": "1"})


def test_a_named_run_that_has_seen_the_future_is_refused(store: tracking.Store) -> None:
    later = train(store, FEBRUARY, learned("of February"))
    with pytest.raises(
        ModelError, match="trained as of 2026-02-01, after 2026-01-01: it has seen the future"
    ):
        champions.find(store, JANUARY, later.run_id)


def test_a_run_of_another_company_is_refused(store: tracking.Store) -> None:
    other = tracking.open_store("other", store.tracking_uri, store.artifact_dir)
    month = train(other, JANUARY, learned("of another"))
    with pytest.raises(ModelError, match=f"expected models of invented in run {month.run_id}, found other-"):
        champions.find(store, JANUARY, month.run_id)
    with pytest.raises(ModelError, match="No promoted model of invented"):
        champions.find(store, JANUARY)


def test_nothing_to_learn_from_leaves_a_criterion_without_a_model(store: tracking.Store) -> None:
    month = train(store, JANUARY, learned("of January"))
    loaded = champions.load(store, champions.find(store, JANUARY))
    assert loaded.models.payment_delay is None
    assert loaded.models.prospect_value is None
    assert set(loaded.versions) == {"lifetime-value", "grading"}
    assert loaded.mlflow_run_id == month.run_id
    assert month.chosen.why["payment-delay"] == "nothing to learn from in this company's data"


def test_every_fallback_is_registered_graded_with_and_opened_by_mlflow(
    store: tracking.Store, registry: None
) -> None:
    import mlflow.pyfunc

    fallbacks = {
        "lifetime-value": last_period("no skill"),
        "payment-delay": PaymentRecord("unsupportable threshold"),
        "prospect-value": segment_means(["industry"]),
    }
    train(store, JANUARY, {name: Learned(model, False, "refused") for name, model in fallbacks.items()})
    models = champions.load(store, champions.find(store, JANUARY)).models
    assert models.lifetime_value == fallbacks["lifetime-value"]
    assert models.payment_delay == fallbacks["payment-delay"]
    assert models.prospect_value is not None
    assert models.prospect_value.verdict == fallbacks["prospect-value"].verdict
    for name, model in fallbacks.items():
        opened = mlflow.pyfunc.load_model(f"models:/invented-{name}@champion")
        example = champions._invented(model)
        pd.testing.assert_frame_equal(opened.predict(example), model.predict(example))
        inputs = opened.metadata.get_input_schema()
        assert inputs.input_names() == list(example.columns)
        assert set(inputs.numpy_types()) <= {np.dtype(float), np.dtype(str), np.dtype(object)}


def test_segment_means_without_a_segment_read_their_invented_row() -> None:
    model = segment_means([])
    assert len(model.predict(champions._invented(model))) == 1


def test_a_model_without_a_scale_in_the_grading_does_not_speak(store: tracking.Store) -> None:
    found = learned("of January") | {"prospect-value": Learned(segment_means(["industry"]), True, "good")}
    chosen = champions.choose(store, JANUARY, found)
    scales = composite.fit(
        {"lifetime_value": np.arange(1.0, 50.0), "prospect": np.arange(1.0, 50.0)},
        {"lifetime_value": "log", "prospect": "log"},
        {},
        trained_as_of=JANUARY,
    )
    with tracking.training_run(store, "train", params={}, tags={}) as run:
        champions.register(store, run, JANUARY, chosen, found, scales)
    of_january = champions.load(store, champions.find(store, JANUARY))
    assert of_january.models.prospect_value is not None
    train(store, FEBRUARY, learned("of February"))  # attributes are gone: nothing to learn prospects from
    of_february = champions.load(store, champions.find(store, FEBRUARY))
    assert of_february.models.prospect_value is None
    assert "prospect-value" not in of_february.versions


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"basis": "contribution"}, "it forecasts contribution, the facts give revenue"),
        ({"horizon_days": 181}, "it forecasts 181 days, 365 are asked for"),
    ],
)
def test_a_champion_that_forecasts_something_else_gives_way_to_the_fallback(
    store: tracking.Store, changes: dict[str, Any], says: str
) -> None:
    champion = learned("of January") | {
        "lifetime-value": Learned(replace(last_period("of January"), **changes), True, "good")
    }
    train(store, JANUARY, champion)
    month = train(store, FEBRUARY, learned("no skill", passed=False))
    assert month.chosen.promoted == {"lifetime-value"}
    assert month.chosen.why["lifetime-value"] == f"fallback promoted: no skill; version 1 cannot stay: {says}"


def test_a_champion_whose_attributes_are_gone_gives_way_to_the_fallback(store: tracking.Store) -> None:
    old, new = segment_means(["industry"]), segment_means([])
    chosen = learned("of January") | {"prospect-value": Learned(old, True, "good")}
    train(store, JANUARY, chosen)
    refused = learned("of February") | {"prospect-value": Learned(new, False, "no skill")}
    stays = champions.choose(store, FEBRUARY, refused, attributes=["industry"])
    assert stays.models.prospect_value is not None
    assert stays.models.prospect_value.segment == ("industry",)
    found = champions.choose(store, FEBRUARY, refused, attributes=["region"])
    assert found.models.prospect_value == new
    assert found.why["prospect-value"] == (
        "fallback promoted: no skill; version 1 cannot stay: it reads the attribute industry, which is gone"
    )
