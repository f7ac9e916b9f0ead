"""What several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
