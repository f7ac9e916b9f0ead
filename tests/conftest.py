"""What several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from clv.warehouse import Engine, workspace

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what tests/test_golden.py finds as what it expects, to be read in the diff",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest starts first, so that no worker waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture(scope="session")
def pipelines() -> Iterator[SimpleNamespace]:
    """The programs' functions `train` and `score`, run from the checkout's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "pipelines"))
        patch.chdir(ROOT)
        import score
        import train

        yield SimpleNamespace(train=train.train, score=score.score)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout, or at CLV_DATA_DIR; the test is skipped without it."""
    place = os.environ.get("CLV_DATA_DIR")
    folder = Path(place) if place else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set CLV_DATA_DIR")
    return folder


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A fresh engine on one thread."""
    with workspace(threads=1, memory_limit="1GB") as db:
        yield db


@pytest.fixture(scope="session")
def two_months(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A small simulated company with models learned as of the first of two months, and both months graded by them.

    `db` is its workspace, loaded as of the second month and priced; `first` and `second` have each `as_of`, `known`,
    `measured`, `customers` and `prospects` (Graded), and the rows of `grades` and `criteria` as published.
    """
    import pandas as pd

    from clv import criteria, grades, ingest, learn
    from clv.config import load
    from clv.contribution import price_lines
    from clv.models.prospect_value import ProspectValue
    from clv.period import see
    from clv.prospects import conversion_values, prospect_rows, training_rows
    from clv.simulate import simulate

    months = date(2026, 1, 1), date(2026, 2, 1)
    file = tmp_path_factory.mktemp("two_months") / "demo.duckdb"
    simulate(file, customers=500, prospects=150, seed=11, threads=1)
    settings = [f"warehouse.path={file}", "engine.threads=1", "lifetime_value.rounds=60"]
    settings += ["payment.training_months=9", "prospect.training_months=18"]
    config = load(ROOT / "configs" / "demo.yaml", settings)
    nobody = pd.DataFrame({"customer_id": [], "value_source": [], "tier": []}, dtype="str")
    with workspace(threads=1, memory_limit="1GB") as db:
        ingest.load(db, config, months[1])
        pricing = price_lines(db, config)
        value, present = learn.learn_lifetime_value(
            db, months[0], config, basis=pricing.basis, horizon=learn.horizon_of(config)
        )
        active = present.loc[present["is_active"], "customer_id"]
        payment = learn.learn_payment_delay(db, months[0], config, active)
        history = training_rows(db, months[0], config)
        worth = conversion_values(db, months[0], 12, 0.1, history.observable_from)
        see(db, months[0])
        prospect = ProspectValue.fit(history.rows, worth, config, 1, prospect_rows(db, months[0]))
        models = criteria.Models(value.model, payment.model if payment else None, prospect)
        grading = None
        previous, found = nobody, []
        versions = {"lifetime-value": "1", "payment-delay": "1", "prospect-value": "1", "grading": "1"}
        for day in months:
            known = criteria.known(db, day, config, pricing, models)
            measured = criteria.judge(known, config, pricing, models)
            grading = grading or grades.fit_grading(measured, day)
            overrides = grades.overrides_valid(db, day)
            customers = grades.grade_customers(
                measured, grading, config, previous, overrides, policy_reset=False
            )
            prospects = grades.grade_prospects(
                measured, grading, config, previous, overrides, day, policy_reset=False
            )
            both = (customers, prospects)
            published = pd.concat(
                [grades.grades_table(each, versions, pricing.basis).astype("object") for each in both],
                ignore_index=True,
            ).assign(as_of_date=pd.Timestamp(day))
            rows = [grades.criteria_table(each, measured) for each in both]
            found.append(
                SimpleNamespace(
                    as_of=day,
                    known=known,
                    measured=measured,
                    customers=customers,
                    prospects=prospects,
                    grades=published,
                    criteria=pd.concat(rows, ignore_index=True),
                )
            )
            previous = published
        yield SimpleNamespace(
            db=db,
            config=config,
            pricing=pricing,
            models=models,
            grading=grading,
            first=found[0],
            second=found[1],
        )
