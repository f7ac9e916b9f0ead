"""Speed of exact Shapley values: rows per second of TreeShapley, as ratios to plain prediction and to `shap`.

One core, one Tweedie model of 200 trees with 7 leaves on invented data, one reference row. A tenth of it
is missing for ours and for prediction, nothing for `shap`, whose interventional values are right only then.

    python benchmarks/shapley.py [--rows 20000] [--shap-rows 200] [--features 60] [--leaves 7] [--rounds 200]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import lightgbm as lgb
import numpy as np
from rich.console import Console
from rich.table import Table

from clv.models.shapley import TreeShapley


def best_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """CPU seconds of the fastest of `repeats` runs: what other programs disturb least."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def train(features: int, leaves: int, rounds: int, rng: np.random.Generator) -> lgb.Booster:
    X = rng.normal(size=(20_000, features))
    mean = np.exp(0.5 * X[:, 0] + np.abs(X[:, 1]) + 0.3 * X[:, 2:8].sum(axis=1))
    y = rng.poisson(mean) * rng.gamma(2.0, 10.0, size=len(X))
    X[rng.random(X.shape) < 0.1] = np.nan
    parameters = {
        "objective": "tweedie", "tweedie_variance_power": 1.2, "learning_rate": 0.05, "num_leaves": leaves,
        "feature_fraction": 0.6, "num_threads": 1, "seed": 7, "deterministic": True, "force_row_wise": True,
        "verbosity": -1,
    }  # fmt: skip
    return lgb.train(parameters, lgb.Dataset(X, y), num_boost_round=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--shap-rows", type=int, default=200)
    parser.add_argument("--features", type=int, default=60)
    parser.add_argument("--leaves", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()

    rng = np.random.default_rng(7)
    booster = train(arguments.features, arguments.leaves, arguments.rounds, rng)
    complete = rng.normal(size=(max(arguments.rows, arguments.shap_rows), arguments.features))
    X = complete[: arguments.rows].copy()
    X[rng.random(X.shape) < 0.1] = np.nan
    reference = np.median(complete, axis=0)

    table_seconds = best_seconds(lambda: TreeShapley(booster, reference))
    explainer = TreeShapley(booster, reference)
    ours = best_seconds(lambda: explainer.attribute(X)) / len(X)
    predict = best_seconds(lambda: booster.predict(X, raw_score=True, num_threads=1)) / len(X)
    with warnings.catch_warnings():
        # shap's own imports warn about their future; nothing here depends on it
        warnings.simplefilter("ignore")
        import shap

        tree_explainer = shap.TreeExplainer(
            booster, data=reference[None, :], feature_perturbation="interventional"
        )
        few = complete[: arguments.shap_rows]
        theirs = best_seconds(lambda: tree_explainer.shap_values(few, check_additivity=False)) / len(few)
        difference = np.abs(tree_explainer.shap_values(few) - explainer.attribute(few).phi).max()

    table = Table(
        title=f"{arguments.rounds} trees × {arguments.leaves} leaves, {arguments.features} features, one core"
    )
    for heading in ("work", "CPU µs per row", "rows per second", "time ÷ TreeShapley's"):
        table.add_column(heading, justify="left" if heading == "work" else "right")
    for name, seconds in (
        ("booster.predict(raw_score=True)", predict),
        ("TreeShapley.attribute", ours),
        ("shap.TreeExplainer, interventional", theirs),
    ):
        table.add_row(name, f"{seconds * 1e6:.1f}", f"{1 / seconds:,.0f}", f"{seconds / ours:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"TreeShapley takes {ours / predict:.2f} × a prediction; shap {theirs / ours:.1f} × TreeShapley."
    )
    console.print(f"Tables built in {table_seconds:.2f} s; largest difference from shap {difference:.1e}.")


if __name__ == "__main__":
    main()
