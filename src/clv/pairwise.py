"""Weights from pairwise comparisons: the analytic hierarchy process (Saaty, 1980).

A judge says of every pair of criteria how many times as important the one is as the other, 1/9 to 9. Several judges
are joined by the geometric mean of their ratios (Aczél & Saaty, 1983), which keeps a_ij = 1/a_ji.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Mean consistency index of random reciprocal matrices, by the number of criteria (Saaty, 1980, table 1.4).
RANDOM_INDEX = (0.0, 0.0, 0.0, 0.58, 0.90, 1.12, 1.24, 1.32, 1.41, 1.45, 1.49)
MAXIMUM_CONSISTENCY_RATIO = 0.10
LARGEST_RATIO = 9.0


@dataclass(frozen=True)
class Compared:
    """What comparisons come to: `weights` by criterion, together 1, and how far the judges contradict themselves."""

    weights: Mapping[str, float]
    consistency_ratio: float


def compare(judges: Mapping[str, Mapping[str, float]]) -> Compared:
    """Weights of all criteria that the judges compare; `judges`: name -> `one/other` -> ratio of importance.

    The weights are the principal eigenvector of the joined matrix; consistency index CI = (λ − n)/(n − 1), ratio
    CR = CI/RI(n), 0 for fewer than three criteria. Raises ValueError where a pair is missing, named twice or out of
    range, for more than ten criteria, and where a judge's CR is 0.10 or more: it names the pair that fits worst with
    that judge's other answers, and the ratio that would fit.
    """
    if not judges:
        raise ValueError("pairwise: needs at least one judge with a ratio for every pair of criteria")
    names = sorted({name for answers in judges.values() for pair in answers for name in _sides(pair)})
    if not 2 <= len(names) < len(RANDOM_INDEX):
        raise ValueError(
            f"pairwise: expected 2 to {len(RANDOM_INDEX) - 1} criteria, found {len(names)}: more cannot be compared "
            "in pairs without contradiction"
        )
    logs = []
    for judge, answers in sorted(judges.items()):
        matrix = _matrix(judge, answers, names)
        weights, ratio = _principal(matrix)
        if ratio >= MAXIMUM_CONSISTENCY_RATIO:
            raise ValueError(f"pairwise.{judge}: {_worst(matrix, weights, names, ratio)}")
        logs.append(np.log(matrix))
    weights, ratio = _principal(np.exp(np.mean(logs, axis=0)))
    return Compared({name: float(w) for name, w in zip(names, weights, strict=True)}, ratio)


def _sides(pair: str) -> tuple[str, str]:
    one, slash, other = (part.strip() for part in pair.partition("/"))
    if not slash or not one or not other or one == other:
        raise ValueError(f"pairwise: expected a pair such as lifetime_value/payment, found {pair!r}")
    return one, other


def _matrix(judge: str, answers: Mapping[str, float], names: list[str]) -> Floats:
    """Reciprocal matrix of one judge."""
    place = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)))
    np.fill_diagonal(matrix, 1.0)
    for pair, ratio in answers.items():
        i, j = (place[name] for name in _sides(pair))
        if not 1 / LARGEST_RATIO - 1e-9 <= ratio <= LARGEST_RATIO + 1e-9:
            raise ValueError(f"pairwise.{judge}.{pair}: expected a ratio from 1/9 to 9, found {ratio:g}")
        if matrix[i, j]:
            raise ValueError(f"pairwise.{judge}.{pair}: the pair is compared twice; keep one of them")
        matrix[i, j], matrix[j, i] = ratio, 1 / ratio
    for one, other in combinations(names, 2):
        if not matrix[place[one], place[other]]:
            raise ValueError(f"pairwise.{judge}: expected every pair, {one}/{other} is missing")
    return matrix


def _principal(matrix: Floats) -> tuple[Floats, float]:
    """Principal eigenvector, its sum 1, and the consistency ratio; by power iteration."""
    n = len(matrix)
    weights = np.full(n, 1 / n)
    for _ in range(1000):
        following = matrix @ weights
        following /= math.fsum(following.tolist())
        moved = float(np.abs(following - weights).max())
        weights = following
        if moved < 1e-15:
            break
    if n < 3:
        return weights, 0.0
    largest = float(np.mean(matrix @ weights / weights))
    return weights, max((largest - n) / (n - 1) / RANDOM_INDEX[n], 0.0)


def _worst(matrix: Floats, weights: Floats, names: list[str], ratio: float) -> str:
    fitting = weights[:, None] / weights[None, :]
    off = np.abs(np.log(matrix / fitting))
    i, j = np.unravel_index(int(np.argmax(np.triu(off, 1))), off.shape)
    if matrix[i, j] < 1:
        i, j = j, i
    return (
        f"consistency ratio {ratio:.2f}, below {MAXIMUM_CONSISTENCY_RATIO:.2f} is needed: {names[i]}/{names[j]} is "
        f"{matrix[i, j]:.2g}, the other answers make it {fitting[i, j]:.2g}; ask again"
    )
