"""Exact interventional Shapley values of a model's link-scale output against one reference row.

The game: a coalition's features take the customer's values, all others the reference's, and its worth is
the model's output on that mixed row (Lundberg et al., 2020, "From local explanations to global understanding
with explainable AI for trees", interventional; Shapley, 1953). So the values answer "what makes this customer
differ from the reference customer", and a monotone model cannot give a reason that contradicts its fact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import factorial
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from clv.errors import ModelError

Floats = NDArray[np.float64]

MAX_LEAVES = 11  # a table has 2^(leaves - 1) rows: 1,024 of them, twice as many for each further leaf
SHARED_BITS = (
    8  # decisions of the trees that share a table: its patterns are bytes, and it stays in the fast cache
)
MAX_PLAYERS = 6  # coalition_shapley calls the model 2^players times
BLOCK_ROWS = 8192  # hides the cost of calling numpy, and a block of 60 features still fits the cache (12 MB)
ZERO_THRESHOLD = float(np.float32(1e-35))  # LightGBM's kZeroThreshold, a float32


@dataclass(frozen=True)
class Attribution:
    """Contributions of n rows, in the order they came in; `raw == raw_reference + phi.sum(axis=1)`.

    `raw` [n] is the output on the link scale, `raw_reference` that of the reference row, `phi` [n, features].
    """

    raw: Floats
    raw_reference: float
    phi: Floats


class TreeShapley:
    """Shapley values of a small LightGBM model, looked up in tables.

    With the reference fixed, a tree's Shapley values depend on nothing but which way the row goes at each
    internal node. So trees of at most 11 leaves get a table with one row per pattern of decisions and one column per
    feature they split on. Small trees that split on the same features share a table, of the sum of both.

    Missing values go where LightGBM sends them, in rows and in the reference alike.
    """

    def __init__(self, booster: lgb.Booster, reference: Floats) -> None:
        """Build the tables of `booster` against `reference` [features].

        Raises ModelError for what has no such table: trees of more than 11 leaves, categorical splits, linear
        leaves, several outputs, or averaged trees (random forests).
        """
        model = booster.dump_model()
        if model["num_tree_per_iteration"] != 1 or model.get("average_output"):
            raise ModelError(
                "expected a boosted model with one output, found several outputs or averaged trees. "
                "Train it with boosting=gbdt and a single-output objective."
            )
        self.features = int(model["max_feature_idx"]) + 1
        reference = np.asarray(reference, dtype=np.float64)
        if reference.shape != (self.features,):
            raise ModelError(
                f"expected a reference row of {self.features} features, found the shape {reference.shape}. "
                "Give one value per feature of the model, in its order."
            )
        trees = [_Tree.parse(info) for info in model["tree_info"]]
        self._columns = sorted({node.column for tree in trees for node in tree.nodes})
        at_reference = {column: float(_fill(reference[column[0]], *column[1:])) for column in self._columns}
        self._lookups = _lookups(trees, self._columns, at_reference)
        self._pattern = np.dtype(np.uint8 if all(len(tree.nodes) <= 8 for tree in trees) else np.uint16)
        self.raw_reference = float(sum((tree.value(at_reference) for tree in trees), start=0.0))

    def attribute(self, X: Floats) -> Attribution:
        """Contributions of the rows `X` [n, features]; beyond the result, memory does not grow with n."""
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.features:
            raise ModelError(
                f"expected rows of {self.features} features, found an array of shape {X.shape}. "
                "Give the features the model was trained on, in its order."
            )
        raw = np.empty(len(X))
        phi = np.zeros(X.shape)
        used = sorted({feature for feature, _, _ in self._columns})
        for start in range(0, len(X), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            raw[rows], block = self._block(np.ascontiguousarray(X[rows].T, dtype=np.float64))
            phi[rows, used] = block[used].T
        return Attribution(raw, self.raw_reference, phi)

    @property
    def thresholds(self) -> dict[int, Floats]:
        """The values at which rows part, rising, by number of the feature."""
        found: dict[int, set[float]] = {}
        for lookup in self._lookups:
            for column, threshold in lookup.splits:
                found.setdefault(self._columns[column][0], set()).add(threshold)
        return {feature: np.array(sorted(values)) for feature, values in sorted(found.items())}

    def _block(self, X: Floats) -> tuple[Floats, Floats]:
        """Outputs [rows] and contributions [features, rows] of rows given by feature, [features, rows]."""
        rows = X.shape[1]
        columns = [_fill(X[feature], missing, left) for feature, missing, left in self._columns]
        phi = np.zeros(X.shape)
        is_left = np.empty(rows, dtype=bool)
        bit = is_left.view(np.uint8)
        pattern = np.empty(rows, dtype=self._pattern)
        found = np.empty(rows)
        for lookup in self._lookups:
            pattern.fill(0)
            for column, threshold in lookup.splits:
                np.less_equal(columns[column], threshold, out=is_left)
                np.add(pattern, pattern, out=pattern)
                np.add(pattern, bit, out=pattern)
            index = pattern.astype(np.intp)
            for feature, table in lookup.phi:
                contribution = phi[feature]
                contribution += np.take(table, index, out=found, mode="clip")
        raw = np.full(rows, self.raw_reference)
        for feature in sorted({feature for feature, _, _ in self._columns}):
            raw += phi[feature]
        return raw, phi


def explainer(booster: lgb.Booster, reference: Floats) -> TreeShapley:
    """The TreeShapley of a booster against a reference row; its tables are built once, whoever explains in blocks."""
    return _built(booster, np.asarray(reference, dtype=np.float64).tobytes())


@lru_cache(maxsize=128)  # a few boosters, each against the reference of every segment
def _built(booster: lgb.Booster, reference: bytes) -> TreeShapley:
    return TreeShapley(booster, np.frombuffer(reference))


def linear_shapley(weights: Floats, intercept: float, X: Floats, reference: Floats) -> Attribution:
    """Shapley values of `intercept + X @ weights` (a logistic regression's logit); X [n, features]."""
    weights, reference = np.asarray(weights, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    X = np.asarray(X, dtype=np.float64)
    phi = (X - reference) * weights
    # Not matrix products: those round differently by the number of rows.
    raw = (X * weights).sum(axis=1) + intercept
    return Attribution(raw, float((reference * weights).sum() + intercept), phi)


def coalition_shapley(f: Callable[[Floats], Floats], X: Floats, reference: Floats) -> Attribution:
    """Shapley values of any `f` from rows [n, k] to outputs [n], by its definition over all 2^k coalitions.

    `f` is called 2^k times on n rows; ModelError for k > 6, or where `f` gives something else than n numbers.
    """
    X, reference = np.asarray(X, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    n, k = X.shape
    if k > MAX_PLAYERS or reference.shape != (k,):
        raise ModelError(
            f"expected at most {MAX_PLAYERS} inputs and a reference of as many, found {k} and the shape "
            f"{reference.shape}. Join inputs, or use a model with an explanation of its own."
        )
    players = np.arange(k)
    worth = np.empty((2**k, n))
    for coalition in range(2**k):
        output = np.asarray(f(np.where(coalition >> players & 1, X, reference)), dtype=np.float64)
        if output.shape != (n,):
            raise ModelError(
                f"expected {n} outputs of the explained function, found the shape {output.shape}."
            )
        worth[coalition] = output
    phi = np.zeros((n, k))
    for coalition in range(2**k):
        members = coalition.bit_count()
        for player in range(k):
            if not coalition >> player & 1:
                share = factorial(members) * factorial(k - members - 1) / factorial(k)
                phi[:, player] += share * (worth[coalition | 1 << player] - worth[coalition])
    return Attribution(worth[-1], float(worth[0, 0]) if n else float(f(reference[None, :])[0]), phi)


# --- the trees, as LightGBM describes them ------------------------------------------------------------------

Column = tuple[
    int, str, bool
]  # feature, missing type, whether missing goes left: what decides how it is compared


@dataclass(frozen=True)
class _Node:
    column: Column
    threshold: float

    @property
    def feature(self) -> int:
        return self.column[0]


@dataclass(frozen=True)
class _Leaf:
    value: float
    path: tuple[tuple[int, bool], ...]  # (number of the internal node, whether the path goes left there)


@dataclass(frozen=True)
class _Tree:
    nodes: list[_Node]
    leaves: list[_Leaf]

    @property
    def features(self) -> set[int]:
        return {node.feature for node in self.nodes}

    def value(self, row: Mapping[Column, float]) -> float:
        """The output for a row given by filled column."""
        left = [row[node.column] <= node.threshold for node in self.nodes]
        return next(leaf.value for leaf in self.leaves if all(left[n] == way for n, way in leaf.path))

    @classmethod
    def parse(cls, info: dict[str, Any]) -> _Tree:
        if info["num_leaves"] > MAX_LEAVES:
            raise ModelError(
                f"expected trees of at most {MAX_LEAVES} leaves, found {info['num_leaves']} in tree "
                f"{info['tree_index']}. Train with num_leaves <= {MAX_LEAVES}, and more rounds instead."
            )
        tree = cls([], [])
        tree._walk(info["tree_structure"], ())
        return tree

    def _walk(self, part: dict[str, Any], path: tuple[tuple[int, bool], ...]) -> None:
        if "split_feature" not in part:
            if "leaf_coeff" in part:
                raise ModelError("expected constant leaves, found linear ones. Train with linear_tree=false.")
            self.leaves.append(_Leaf(float(part["leaf_value"]), path))
            return
        if part["decision_type"] != "<=":
            raise ModelError(
                f"expected numerical splits, found a categorical one on feature {part['split_feature']}. "
                "Encode the categories as numbers before training."
            )
        number = len(self.nodes)
        missing = str(part["missing_type"])
        column = (int(part["split_feature"]), missing, missing != "None" and bool(part["default_left"]))
        self.nodes.append(_Node(column, float(part["threshold"])))
        self._walk(part["left_child"], (*path, (number, True)))
        self._walk(part["right_child"], (*path, (number, False)))


def _fill(values: Floats | np.float64, missing: str, is_left: bool) -> Floats:
    """One feature, its missing values replaced so that `value <= threshold` sends them as LightGBM does."""
    if missing == "None":
        return np.where(np.isnan(values), 0.0, values)
    is_missing = np.isnan(values)
    if missing == "Zero":
        is_missing |= np.abs(values) <= ZERO_THRESHOLD
    return np.where(is_missing, -np.inf if is_left else np.inf, values)


# --- the tables ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lookup:
    """Some trees: their splits (column, threshold), the first the highest bit of a pattern; tables over patterns."""

    splits: list[tuple[int, float]]
    phi: list[tuple[int, Floats]]


def _lookups(
    trees: list[_Tree], columns: list[Column], at_reference: Mapping[Column, float]
) -> list[_Lookup]:
    number = {column: i for i, column in enumerate(columns)}
    lookups = []
    for group in _groups(trees):
        splits, phi = [], {feature: np.zeros(1) for tree in group for feature in sorted(tree.features)}
        for tree in group:
            own = _tables(tree, [at_reference[node.column] <= node.threshold for node in tree.nodes])
            nothing = np.zeros(1 << len(tree.nodes))
            phi = {f: np.add.outer(table, own.get(f, nothing)).ravel() for f, table in phi.items()}
            splits += [(number[node.column], node.threshold) for node in reversed(tree.nodes)]
        lookups.append(_Lookup(splits, list(phi.items())))
    return lookups


def _groups(trees: list[_Tree]) -> list[list[_Tree]]:
    """Trees that share a table: neighbours when ordered by what they split on, the commonest features first."""
    used = Counter(feature for tree in trees for feature in sorted(tree.features))
    rank = {feature: i for i, (feature, _) in enumerate(used.most_common())}
    splitting = [tree for tree in trees if tree.nodes]
    groups: list[list[_Tree]] = []
    bits = SHARED_BITS
    for tree in sorted(splitting, key=lambda tree: sorted(rank[feature] for feature in tree.features)):
        bits += len(tree.nodes)
        if bits > SHARED_BITS:
            groups.append([])
            bits = len(tree.nodes)
        groups[-1].append(tree)
    return groups


def _tables(tree: _Tree, reference_left: list[bool]) -> dict[int, Floats]:
    """Contributions by feature for every pattern of decisions (bit i is set: left at node i).

    A leaf of value v is reached by the coalitions that hold all of `own` (features whose own value is needed to
    get there) and none of `other` (features whose reference value is needed). Of this game each of the own gets
    v (|own| - 1)! |other|! / (|own| + |other|)!, and each of the other
    -v |own|! (|other| - 1)! / (|own| + |other|)!.
    """
    patterns = np.arange(1 << len(tree.nodes))
    phi = {feature: np.zeros(len(patterns)) for feature in sorted(tree.features)}
    for leaf in tree.leaves:
        by_own: dict[int, NDArray[np.bool_]] = {}  # by feature on the path: does its value lead this way?
        by_reference: dict[int, bool] = {}
        for number, left in leaf.path:
            feature = tree.nodes[number].feature
            agrees = (patterns >> number & 1 == 1) == left
            by_own[feature] = by_own.get(feature, np.ones(len(patterns), dtype=bool)) & agrees
            by_reference[feature] = by_reference.get(feature, True) and reference_left[number] == left
        needs_own = [feature for feature, agrees in by_reference.items() if not agrees]
        may_differ = [feature for feature, agrees in by_reference.items() if agrees]
        worth = leaf.value * np.all([by_own[feature] for feature in needs_own], axis=0)
        own = len(needs_own)
        other = np.sum([~by_own[feature] for feature in may_differ], axis=0, dtype=np.intp, initial=0)
        for feature in needs_own:
            phi[feature] += worth * _SHARE[own - 1, other]
        for feature in may_differ:
            phi[feature] -= worth * ~by_own[feature] * _SHARE[other - 1, own]
    return phi


def _shares() -> Floats:
    size = MAX_LEAVES + 1
    return np.array(
        [[factorial(i) * factorial(j) / factorial(i + j + 1) for j in range(size)] for i in range(size)]
    )


_SHARE = _shares()  # [i, j] = i! j! / (i + j + 1)!
