"""The search for the likeliest parameters: it ends at a minimum, and says what kind of end it came to."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from clv.models import maximum_likelihood
from clv.models.maximum_likelihood import HIGHEST, LOWEST, Derivatives, maximise, minimise

Floats = NDArray[np.float64]


def valley(logs: Floats) -> Derivatives:
    """Rosenbrock's, curved and steep, its minimum at (1, 1), where both parameters are e."""
    a, b = logs
    value = (1 - a) ** 2 + 100 * (b - a * a) ** 2
    slopes = np.array([-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)])
    return float(value), slopes, np.array([[2 - 400 * b + 1200 * a * a, -400 * a], [-400 * a, 200.0]])


def ridge(logs: Floats) -> Derivatives:
    """Only the product of the parameters matters."""
    away = float(logs.sum()) - 1
    return away**2, np.full(2, 2 * away), np.full((2, 2), 2.0)


def slope(logs: Floats) -> Derivatives:
    """Falls for ever as the second parameter shrinks; the first is best at e."""
    second = np.exp(logs[1])
    return float((logs[0] - 1) ** 2 + second), np.array([2 * (logs[0] - 1), second]), np.diag([2, second])


def nonsense(logs: Floats) -> Derivatives:
    return np.nan, np.full(2, np.nan), np.full((2, 2), np.nan)


@pytest.mark.parametrize("start", [(0.3, 5.0), (8.0, 0.1), (1.0, 1.0)])
def test_newton_reaches_the_bottom_of_a_curved_valley(start: tuple[float, float]) -> None:
    found = minimise(valley, np.array(start))
    assert found.verdict == "converged"
    np.testing.assert_allclose(found.params, np.e, rtol=1e-9)


def test_parameters_that_the_data_do_not_tell_apart_are_not_positive_definite() -> None:
    found = minimise(ridge, np.array([2.0, 3.0]))
    assert found.converged
    assert found.params.prod() == pytest.approx(np.e)
    assert found.verdict == "not positive definite"


def test_a_parameter_that_shrinks_for_ever_is_held_at_the_boundary() -> None:
    found = minimise(slope, np.ones(2))
    np.testing.assert_allclose(found.params, [np.e, LOWEST])
    assert found.verdict == "boundary"


def test_a_parameter_that_grows_for_ever_explodes() -> None:
    def reversed_slope(logs: Floats) -> Derivatives:
        value, slopes, curvature = slope(logs * [1, -1])
        return value, slopes * [1, -1], curvature

    found = minimise(reversed_slope, np.ones(2))
    assert found.params[1] == pytest.approx(HIGHEST)
    assert found.verdict == "exploding"


def test_a_loss_that_is_no_number_or_a_search_too_short_has_not_converged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert minimise(nonsense, np.ones(2)).verdict == "not converged"
    monkeypatch.setattr(maximum_likelihood, "MOST_STEPS", 2)
    assert minimise(valley, np.array([0.3, 5.0])).verdict == "not converged"


class Numbers:
    """Poisson counts; a mean to find."""

    def __init__(self, values: Floats) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def portion(self, size: int) -> Numbers:
        return self if len(self) <= size else Numbers(self.values[:size])


def poisson(data: Numbers, logs: Floats) -> Derivatives:
    mean = float(np.exp(logs[0]))
    counts = data.values.mean()
    return counts * logs[0] - mean, np.array([counts - mean]), np.array([[-mean]])


@pytest.mark.parametrize("guess", [None, 3.0, 1e-300, 2e5])
def test_a_portion_finds_the_start_and_all_the_answer(guess: float | None) -> None:
    data = Numbers(np.random.default_rng(1).poisson(4.0, 9_000).astype(np.float64))
    asked: list[int] = []

    def say(part: Numbers) -> Floats | None:
        asked.append(len(part))
        return None if guess is None else np.array([guess])

    found = maximise(poisson, data, say, [np.array([0.1]), np.array([50.0])], 0.0)
    assert asked == [maximum_likelihood.PORTIONS[0]]
    assert found.params[0] == pytest.approx(data.values.mean(), rel=1e-9)


def test_a_penaliser_adds_its_squares_to_loss_slopes_and_curvature() -> None:
    data = Numbers(np.full(10, 4.0))
    found = maximise(poisson, data, lambda part: pytest.fail("not to be asked"), [np.array([1.0])], 0.5)
    # counts / mean - 1 = 2 * penaliser * mean
    assert found.params[0] == pytest.approx((-1 + np.sqrt(17)) / 2)
    mean = found.params[0]
    assert found.loss == pytest.approx(mean - 4 * np.log(mean) + 0.5 * mean**2)
    assert found.curvature[0, 0] == pytest.approx(mean + 2 * mean**2)
