"""What several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clv.warehouse import Engine, workspace


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
