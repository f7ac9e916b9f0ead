"""What moved a customer's distance to the edge of its tier: exact Shapley values of five blocks.

    distance = composite − edge,    Σ points = distance now − distance a month ago.

A coalition S takes its blocks as they are now and the others as they were. The composite of S is the weighted mean of
the criteria measured (`coverage`), by the weights and settings (`policy`), of the scores that the models (`model`) give
the customer's own facts (`facts`). The edge of S is the score at the place of the edge, in the ranking of the others
(`peers`) by the models and weights of S. The two have no block in common but `model` and `policy`, so each is a game
of its own and the values are added (Shapley, 1953: additivity). The empty and the full coalition are the two months
as published; blocks that are equal in both are left out of the game, which gives them 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import factorial

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Value = Callable[[frozenset[str]], Floats]

BLOCKS = ("facts", "peers", "model", "policy", "coverage")
OF_COMPOSITE = ("facts", "model", "policy", "coverage")
OF_EDGE = ("peers", "model", "policy")
THEN, NOW = 0, 1


def shapley(value: Value, players: Sequence[str]) -> dict[str, Floats]:
    """Exact Shapley value of each player of the game `value` (coalition -> one figure per row)."""
    n = len(players)
    worth = {
        coalition: value(coalition)
        for size in range(n + 1)
        for coalition in map(frozenset, combinations(players, size))
    }
    found = {}
    for player in players:
        total = np.zeros_like(worth[frozenset()])
        for coalition in worth:
            if player not in coalition:
                weight = factorial(len(coalition)) * factorial(n - len(coalition) - 1) / factorial(n)
                total = total + weight * (worth[coalition | {player}] - worth[coalition])
        found[player] = total
    return found


@dataclass(frozen=True)
class Composites:
    """The composite of any coalition, for the customers graded in both months.

    `scores[facts, model]`: a row per customer, a column per criterion (NaN = not measured); where the models are the
    same only `model` NOW is read. `settings_offset`: what the scores then lose as soon as the settings are those of
    today. `weights[policy]`: of each criterion. `measured[coverage]`: which of them counted. `published[month]`: the
    composites as published.
    """

    scores: Mapping[tuple[int, int], Floats]
    settings_offset: Floats
    weights: tuple[Floats, Floats]
    measured: tuple[Flags, Flags]
    published: tuple[Floats, Floats]

    def of(self, facts: int, model: int, policy: int, coverage: int) -> Floats:
        """A criterion measured in one of the months alone has that score in both: it came or went, it did not move."""
        own = self.scores[facts, model]
        for other in ((1 - facts, model), (facts, 1 - model), (1 - facts, 1 - model)):
            if other in self.scores:
                own = np.where(np.isfinite(own), own, self.scores[other])
        own = own + self.settings_offset if policy == THEN else own
        found = np.full(len(own), np.nan)
        # Where nothing of weight was measured then, by the weights of then: what is known of the other month.
        for p, c in ((policy, coverage), (1 - policy, coverage), (policy, 1 - coverage)):
            share = np.where(self.measured[c] & np.isfinite(own), self.weights[p], 0.0)
            total = share.sum(axis=1)
            mean = np.where(share > 0, own, 0.0) * share / np.where(total > 0, total, 1.0)[:, None]
            found = np.where(np.isnan(found) & (total > 0), mean.sum(axis=1), found)
        return np.where(np.isnan(found), self.published[coverage], found)


@dataclass(frozen=True)
class Edges:
    """The edge of any coalition, for the same customers.

    `published[month]`: the edges as published, 0 in both where no score decides. `rankings[peers, model, policy]`: the
    composites of those in tiers, highest first; none where limits cut the tiers, so that no peer moves an edge.
    `by_policy`: for whom the edge lies at another place by the rules (a new policy, or who is judged as a member for
    the first time), not by what the others did.
    """

    published: tuple[Floats, Floats]
    by_policy: Flags
    rankings: Mapping[tuple[int, int, int], Floats] = field(default_factory=dict)

    def of(self, peers: int, model: int, policy: int) -> Floats:
        source = np.where(self.by_policy, policy, peers)
        native = np.where(source == NOW, self.published[NOW], self.published[THEN])
        if not self.rankings:
            return native
        ranking = self.rankings[peers, model, policy]
        found = native.astype(np.float64)
        for month in (THEN, NOW):
            mine = (source == month) & (native > 0)
            own = self.rankings[month, month, month]
            place = np.searchsorted(-own, -native[mine], side="left")
            there = self._at(own, place)
            # The same place among the others: of so many as there were, or are.
            moved = place if month == peers else np.round(place * len(ranking) / max(len(own), 1)).astype(int)
            found[mine] += self._at(ranking, moved) - there
        return found

    @staticmethod
    def _at(ranking: Floats, place: NDArray[np.int_]) -> Floats:
        return ranking[np.clip(place, 0, len(ranking) - 1)] if len(ranking) else np.zeros(len(place))


def points(composites: Composites, edges: Edges, players: frozenset[str]) -> dict[str, Floats]:
    """Block -> its points for each customer; exactly 0 for those not among `players`: they are equal."""

    def state(coalition: frozenset[str], block: str) -> int:
        return NOW if block in coalition or block not in players else THEN

    def game(
        names: Sequence[str], published: tuple[Floats, Floats], of: Callable[..., Floats]
    ) -> dict[str, Floats]:
        playing = [name for name in names if name in players]

        def value(coalition: frozenset[str]) -> Floats:
            if not coalition:
                return published[THEN]
            if len(coalition) == len(playing):
                return published[NOW]
            return of(*(state(coalition, name) for name in names))

        return shapley(value, playing)

    of_composite = game(OF_COMPOSITE, composites.published, composites.of)
    of_edge = game(OF_EDGE, edges.published, edges.of)
    nothing = np.zeros(len(composites.published[THEN]))
    return {block: of_composite.get(block, nothing) - of_edge.get(block, nothing) for block in BLOCKS}
