"""Maximum likelihood: damped Newton steps on all customers, from a start found on a few of them.

The loss is the mean negative log-likelihood plus a penaliser times the sum of squared parameters. Likelihoods are
functions of the logarithms of positive parameters that return the mean log-likelihood a customer, its slopes and its
curvature, both by those logarithms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Derivatives = tuple[float, Floats, Floats]

PENALISERS = (0.0, 1e-3, 0.01, 0.1, 1.0)  # in the order in which they are tried
PORTIONS = (4_000, 64_000)  # rows on which the start is found: on all of them a step or two is left to do
LOWEST, HIGHEST = 1e-6, 1e4  # of a parameter; it is held at the one, the search ends at the other
BOUNDARY, EXPLODING = 1e-3, 1e3  # a parameter below or above is none to trust
NIL = 1e-9  # a slope of the loss by the logarithm of a parameter
NIL_BY_ROUNDING = 1e-6  # where no step is left that lowers the loss
LONGEST_STEP = 3.0  # in logarithms
MOST_STEPS, MOST_HALVINGS = 100, 30
FLAT = 1e-10  # a curvature over the largest one, below which rounding cannot tell it from none


class Rows(Protocol):
    """What a likelihood is taken of."""

    def __len__(self) -> int: ...

    def portion(self, size: int) -> Self: ...


Data = TypeVar("Data", bound=Rows)


@dataclass(frozen=True)
class Minimum:
    """Where a search ended; `slopes` and `curvature` of the loss are by the logarithms of `params`."""

    params: Floats
    loss: float
    slopes: Floats
    curvature: Floats
    converged: bool

    @property
    def verdict(self) -> str:
        """`converged`, or what is wrong.

        `exploding`: a parameter above EXPLODING; `not converged`: the loss still falls, or is no number;
        `boundary`: a parameter below BOUNDARY; `not positive definite`: in some direction the loss does not rise, so
        that the data do not tell these parameters from others.
        """
        if self.params.max() > EXPLODING:
            return "exploding"
        if not self.converged:
            return "not converged"
        if self.params.min() < BOUNDARY:
            return "boundary"
        curvatures = np.linalg.eigvalsh(self.curvature)
        return "converged" if curvatures[0] > FLAT * curvatures[-1] else "not positive definite"


def maximise(
    likelihood: Callable[[Data, Floats], Derivatives],
    data: Data,
    guess: Callable[[Data], Floats | None],
    starts: Sequence[Floats],
    penaliser: float,
) -> Minimum:
    """The likeliest parameters: found on a portion of the data, improved on a larger one, then on all.

    On the first portion the search begins at what `guess` says of it, and where that leads nowhere, at each of
    `starts`; the best answer counts. What is penalised did not fit by itself: nobody is asked to guess.
    """

    def search(part: Data, start: Floats) -> Minimum:
        def loss(logs: Floats) -> Derivatives:
            with np.errstate(all="ignore"):  # what is no number is no minimum
                value, slopes, curvature = likelihood(part, logs)
            squares = penaliser * np.exp(2 * logs)
            return float(squares.sum()) - value, 2 * squares - slopes, np.diag(4 * squares) - curvature

        return minimise(loss, start)

    part = data.portion(PORTIONS[0])
    guessed = guess(part) if penaliser == 0 else None
    found = [] if guessed is None else [search(part, guessed)]
    if not any(minimum.converged for minimum in found):
        found += [search(part, start) for start in starts]
    best = min(found, key=lambda minimum: (not minimum.converged, minimum.loss))
    for size in (*PORTIONS[1:], len(data)):
        if len(part) < len(data):
            part = data.portion(size)
            best = search(part, best.params)
    return best


def minimise(loss: Callable[[Floats], Derivatives], start: Floats) -> Minimum:
    """A minimum of `loss`, which takes logarithms, by Newton steps from the parameters `start`.

    Where the loss curves down a step goes as far against the slope as where it curves up. A step that does not
    lower the loss is halved. A parameter at LOWEST that wants to go on is held there; one at HIGHEST will not come
    back, and the search ends.
    """
    lowest, highest = np.log(LOWEST), np.log(HIGHEST)
    logs = np.clip(np.log(start), lowest, highest)
    value, slopes, curvature = loss(logs)
    converged = False
    for _ in range(MOST_STEPS):
        if not np.isfinite(value + slopes.sum() + curvature.sum()):
            break
        if np.any((logs >= highest) & (slopes < 0)):
            break
        free = (logs > lowest) | (slopes <= 0)
        steepest = np.abs(slopes[free]).max(initial=0.0)
        if steepest <= NIL:
            converged = True
            break
        step = np.zeros(len(logs))
        step[free] = _newton_step(slopes[free], curvature[np.ix_(free, free)])
        for _ in range(MOST_HALVINGS):
            trial = np.clip(logs + step, lowest, highest)
            there = loss(trial)
            if there[0] <= value + 1e-4 * float(np.sum(slopes * (trial - logs))) + 1e-13 * abs(value):
                break
            step = step / 2
        else:
            converged = bool(steepest <= NIL_BY_ROUNDING)
            break
        logs, (value, slopes, curvature) = trial, there
    return Minimum(np.exp(logs), value, slopes, curvature, converged)


def _newton_step(slopes: Floats, curvature: Floats) -> Floats:
    values, vectors = np.linalg.eigh(curvature)
    size = np.abs(values)
    size = np.maximum(size, max(FLAT * size.max(), np.finfo(np.float64).tiny))
    step = -vectors @ ((vectors.T @ slopes) / size)
    return np.asarray(step * min(1.0, LONGEST_STEP / float(np.linalg.norm(step))))
