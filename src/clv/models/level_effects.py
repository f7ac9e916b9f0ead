"""Categories with more levels than flags: what each level did, shrunk to the whole, as one number.

A target statistic (Micci-Barreca, 2001, eq. 4, with the shrinkage of an analysis of variance instead of a tuned one),
cross-fitted: a training row sees the statistic of the others only, so that a level of few cannot repeat their outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logit

Floats = NDArray[np.float64]
Scale = Callable[[Floats], Floats]

FOLDS = 5
SMALLEST_RATE = 1e-6


@dataclass(frozen=True)
class LevelEffects:
    """Attribute -> level -> its effect on the scale of a link, 0 where nothing is known of the level."""

    effects: Mapping[str, Mapping[str, float]]

    @classmethod
    def fit(cls, rows: pd.DataFrame, outcome: Floats, names: Sequence[str], scale: Scale) -> Self:
        """Effects of the levels of the attributes `names` on `outcome`, one per row of `rows`.

        The mean of a level is (n x + k m) / (n + k), n its rows, m the mean of all, k = variance within / variance
        between levels (method of moments), the former over whole customers, whose rows say nearly the same thing; its
        effect is the difference to m on `scale`. Where levels differ by no more than chance k is infinite and every
        effect 0.
        """
        return cls({name: _effects(rows[name], rows["customer_id"], outcome, scale) for name in names})

    def transform(self, rows: pd.DataFrame) -> Floats:
        """The effects [rows, attributes]; 0 for nulls and levels unseen."""
        columns = [
            _texts(rows[name]).map(levels).to_numpy(np.float64) for name, levels in self.effects.items()
        ]
        return np.nan_to_num(np.column_stack(columns)) if columns else np.zeros((len(rows), 0))


def out_of_fold(rows: pd.DataFrame, outcome: Floats, names: Sequence[str], scale: Scale, seed: int) -> Floats:
    """What `transform` says of the rows themselves, each learned without the rows of its own customer."""
    found = np.zeros((len(rows), len(names)))
    if names:
        fold = folds(rows["customer_id"], seed)
        for k in range(FOLDS):
            learned = LevelEffects.fit(rows[fold != k], outcome[fold != k], names, scale)
            found[fold == k] = learned.transform(rows[fold == k])
    return found


def folds(customers: pd.Series, seed: int) -> NDArray[np.intp]:
    """The fold of each row: that of its customer, drawn once per customer in the order of the ids."""
    ids, place = np.unique(customers.to_numpy(dtype=object).astype(str), return_inverse=True)
    return np.random.default_rng(seed).permutation(len(ids))[place] % FOLDS


def log_odds(rate: Floats) -> Floats:
    """The scale of a rate."""
    return np.asarray(logit(np.clip(rate, SMALLEST_RATE, 1 - SMALLEST_RATE)))


def log_mean(mean: Floats) -> Floats:
    """The scale of money that is never negative."""
    return np.asarray(np.log(np.maximum(mean, SMALLEST_RATE)))


def _effects(values: pd.Series, customers: pd.Series, outcome: Floats, scale: Scale) -> dict[str, float]:
    if not len(outcome) or outcome.min() == outcome.max():
        return {}
    levels = pd.Series(outcome).groupby(_texts(values).array, sort=True).agg(["mean", "size"])
    n, mean = levels["size"].to_numpy(np.float64), levels["mean"].to_numpy(np.float64)
    overall, total = float(outcome.mean()), float(n.sum())
    spread = total - float((n**2).sum()) / max(total, 1.0)
    by_customer = pd.Series(outcome - overall).groupby(customers.to_numpy(), sort=True).sum()
    within = float((by_customer**2).sum()) / len(outcome)
    excess = float((n * (mean - overall) ** 2).sum()) - (len(n) - 1) * within
    if len(n) < 2 or spread <= 0 or excess <= 0:
        return {}
    k = within * spread / excess
    shrunk = (n * mean + k * overall) / (n + k)
    effect = scale(shrunk) - scale(np.array([overall]))
    return dict(zip(levels.index.astype(str), effect.tolist(), strict=True))


def _texts(values: pd.Series) -> pd.Series:
    return values.astype("string")
