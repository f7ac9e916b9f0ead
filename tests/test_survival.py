"""The survival analysis that benchmarks compare with, against published numbers; and the real ledgers it is used on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from clv import ingest, period, receivables
from clv.config import load
from clv.warehouse import Engine

ROOT = Path(__file__).resolve().parents[1]

# Weeks of remission of 42 leukaemia patients (Freireich et al., 1963; Cox, 1972); + is censored.
TREATED = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
CONTROL = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"


@pytest.fixture(scope="module")
def survival() -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import survival

        yield SimpleNamespace(**vars(survival))


def read(weeks: str) -> tuple[np.ndarray, np.ndarray]:
    words = weeks.split()
    return np.array([float(word.rstrip("+")) for word in words]), np.array(
        [not word.endswith("+") for word in words]
    )


def test_kaplan_meier_of_the_remission_data(survival: SimpleNamespace) -> None:
    curve = survival.kaplan_meier(*read(TREATED))
    assert curve.times.tolist() == [6, 7, 10, 13, 16, 22, 23]
    published = [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448]
    assert curve.survival == pytest.approx(published, abs=5e-4)
    assert curve.at(np.array([5.0, 6.0])).tolist() == pytest.approx([1, 18 / 21])
    assert curve.at(np.array([6.0]), before=True)[0] == 1


def test_cox_of_the_remission_data_with_ties_by_breslow(survival: SimpleNamespace) -> None:
    parts = [read(TREATED), read(CONTROL)]
    times, happened = (np.concatenate(both) for both in zip(*parts, strict=True))
    control = np.repeat([0.0, 1.0], 21)[:, None]
    model = survival.Cox.fit(control, times, happened)
    assert model.coefficients[0] == pytest.approx(1.509, abs=1e-3)
    at_ten = model.survival(np.array([[0.0], [1.0]]), np.array([10.0]))[:, 0]
    assert at_ten[1] == pytest.approx(at_ten[0] ** np.exp(model.coefficients[0]))


def test_brier_score_without_censoring_is_the_plain_one_and_ipcw_is_unbiased(
    survival: SimpleNamespace,
) -> None:
    rng = np.random.default_rng(2)
    n = 20_000
    true, censored = rng.exponential(40, n), rng.exponential(80, n)
    when = np.array([10.0, 30.0, 60.0])
    forecast = np.tile(np.exp(-when / 30), (n, 1))
    plain = ((true[:, None] > when) - forecast) ** 2
    whole = survival.brier_scores(forecast, true, np.ones(n, dtype=bool), when)
    assert whole == pytest.approx(plain.mean(axis=0))
    times, happened = np.minimum(true, censored), true <= censored
    assert survival.brier_scores(forecast, times, happened, when) == pytest.approx(whole, rel=0.03)
    assert survival.integrated(np.array([0.1, 0.3]), np.array([0.0, 10.0])) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("company", "as_of", "invoices", "settled", "late"),
    [
        ("traffic_fines", date(2012, 6, 1), 10_000, 4_626, 6_828),
        ("classicmodels", date(2005, 7, 1), 248, 248, 3),
    ],
)
def test_real_ledgers_are_read_whole(
    engine: Engine,
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    company: str,
    as_of: date,
    invoices: int,
    settled: int,
    late: int,
) -> None:
    """Counts of invoices, paid ones, and those more than 30 days beyond terms, paid or not."""
    monkeypatch.setenv("CLV_DATA_DIR", str(shared_data))
    config = load(ROOT / "configs" / f"{company}.yaml")
    ingest.load(engine, config, as_of)
    period.see(engine, as_of)
    state = receivables.invoice_state(engine, as_of, config.payment)
    found = engine.rows(
        f"SELECT count(*), count(*) FILTER (NOT is_open), count(*) FILTER (days_beyond_terms > 30) FROM {state}"
    )
    assert found == [(invoices, settled, late)]
