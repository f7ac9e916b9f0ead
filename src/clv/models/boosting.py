"""How every model here is trained: the same answer whatever the number of threads, and no more of them than pay."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

Floats = NDArray[np.float64]

# Below this many rows a second thread saves nothing, and on a busy machine the threads wait for each other.
ROWS_WORTH_THREADS = 100_000


def threads_for(rows: int, threads: int) -> int:
    """How many of the `threads` on offer are worth using for so many rows."""
    return threads if rows >= ROWS_WORTH_THREADS else 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep scikit-learn's solvers to one thread: a few hundred rows make them wait for each other, not compute."""
    with threadpool_limits(limits=1):
        yield


def train_trees(
    X: Floats,
    y: Floats,
    parameters: Mapping[str, Any],
    rounds: int,
    seed: int,
    threads: int,
    weight: Floats | None = None,
    offset: Floats | None = None,
) -> lgb.Booster:
    """A booster of `rounds` trees with LightGBM's `parameters`; features are known as f0, f1, ...

    `offset` is added to the raw output while learning (the logarithm of an exposure) and is no part of the answer.
    Depends on the order of the rows wherever rows are sampled: give them in one order.
    """
    fixed = {"seed": seed, "deterministic": True, "force_row_wise": True, "verbosity": -1}
    settings = {**fixed, **parameters, "num_threads": threads_for(len(X), threads)}
    # Names of attributes' levels are data and may hold what LightGBM's text format cannot.
    names = [f"f{i}" for i in range(X.shape[1])]
    data = lgb.Dataset(X, y, weight=weight, init_score=offset, feature_name=names, params=settings)
    booster = lgb.train(settings, data, num_boost_round=rounds)
    text = re.sub(r"\[num_threads: \d+\]", "[num_threads: 1]", booster.model_to_string())
    return lgb.Booster(model_str=text)  # what is judged is what is stored
