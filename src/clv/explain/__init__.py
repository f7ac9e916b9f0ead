"""Points of the composite -> reasons in words: at most a few, each with its fact, the peers' and its effect.

A reason is a concept: the inputs that say the same thing, summed. What is said is a fact that differs from the
comparison in the direction of the points; where the peers' does not, the reference customer's is compared with.
Scores and points are a customer's own; the peers beside them are those of the population graded together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.explain import choice
from clv.explain.choice import ALONE, CLOSE, COMPARISONS, EVERYONE, KINDRED, PEERS, TYPICAL, UNKNOWN, Concept
from clv.explain.peers import Peers, Population, Rows
from clv.explain.telling import Template, retell, tell, tell_rest
from clv.explain.words import Words, json_texts

if TYPE_CHECKING:
    from clv.config import Config
    from clv.grades import Graded
    from clv.points import Points

__all__ = ["peers_of", "reasons", "retell"]

Floats = NDArray[np.float64]
BLOCK_ROWS = 20_000
ADDITIVITY_TOLERANCE = 1e-6
ROUNDING_POINTS = 1e-9
COLUMNS = (
    *("customer_id", "position", "direction", "criterion", "concept", "points"),
    *("template_id", "values", "fact", "peer_fact", "sentence"),
)


def peers_of(graded: Graded, criteria: Sequence[Points], config: Config) -> dict[str, Peers]:
    """Criterion -> medians of its facts by segment, among the active customers (or the prospects) of `graded`."""
    population, words = Population.of(graded.frame, config), Words.of(config)
    return {points.criterion: Peers.of(points, population, config, words) for points in criteria}


def reasons(
    graded: Graded, criteria: Sequence[Points], config: Config, peers: Mapping[str, Peers] | None = None
) -> pd.DataFrame:
    """Rows of the table `reasons` for everyone with a score, by customer in the order of `graded`, and position.

    `criteria`: the points of each criterion, the same rows. `peers`: what facts are compared with, by default
    `peers_of` the same; with those of a whole company a part of it gets the same rows as in the whole. Raises
    ModelError where points and score part by more than 1e-6.
    """
    words = Words.of(config)
    gap = (graded.frame["composite_score"] - graded.frame["composite_baseline"]).to_numpy(np.float64)
    _audit(gap, graded, criteria)
    scene = _Scene(
        points={points.criterion: points for points in criteria},
        weights={
            points.criterion: graded.weights[points.criterion].to_numpy(np.float64) for points in criteria
        },
        concepts=[concept for points in criteria for concept in choice.concepts_of(points, words)],
        peers=peers_of(graded, criteria, config) if peers is None else peers,
        population=Population.of(graded.frame, config),
        words=words,
    )
    scored = np.flatnonzero(np.isfinite(gap))
    blocks = [scored[start : start + BLOCK_ROWS] for start in range(0, len(scored), BLOCK_ROWS)]
    if not blocks:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat([scene.explain(rows, gap[rows]) for rows in blocks], ignore_index=True)


def _audit(gap: Floats, graded: Graded, criteria: Sequence[Points]) -> None:
    total = np.zeros(len(gap))
    for points in criteria:
        weight = graded.weights[points.criterion].to_numpy(np.float64)
        total += np.where(weight > 0, points.points.sum(axis=1) * weight, 0.0)
    miss = np.abs(total - gap)
    off = miss > ADDITIVITY_TOLERANCE
    if off.any():
        raise ModelError(
            f"Explanations must add up to the score within {ADDITIVITY_TOLERANCE:g} points, found {int(off.sum())} "
            f"customers off by up to {miss[off].max():.3g}. The models and the grading do not belong together; "
            "train again."
        )


@dataclass(frozen=True)
class _Scene:
    """All that explaining a block of rows takes."""

    points: Mapping[str, Points]
    weights: Mapping[str, Floats]
    concepts: Sequence[Concept]
    peers: Mapping[str, Peers]
    population: Population
    words: Words

    def explain(self, rows: Rows, gap: Floats) -> pd.DataFrame:
        """The reasons of the customers at `rows`, whose points add up to `gap`."""
        block = np.column_stack(
            [
                concept.points(self.points[concept.criterion], self.weights[concept.criterion], rows)
                for concept in self.concepts
            ]
        )
        segment = {name: peers.rows(self.population.segments[rows]) for name, peers in self.peers.items()}
        facts = [
            choice.facts_told(
                concept,
                self.points[concept.criterion],
                np.sign(block[:, k]),
                self.peers[concept.criterion],
                segment[concept.criterion],
                rows,
                self.words,
            )
            for k, concept in enumerate(self.concepts)
        ]
        for concept, (_, comparison) in zip(self.concepts, facts, strict=True):
            self._mark_unknown(concept, rows, comparison)
        can_be_told = np.column_stack([comparison <= ALONE for _, comparison in facts])
        shown = choice.shown_concepts(block, can_be_told, self.words.config.explain)
        parts = []
        for k, concept in enumerate(self.concepts):
            player, comparison = facts[k]
            kinds = player * len(COMPARISONS) + comparison
            for kind in np.unique(kinds[shown[:, k]]):
                mine = np.flatnonzero(shown[:, k] & (kinds == kind))
                i, how = divmod(int(kind), len(COMPARISONS))
                told = self._told(
                    concept, i, how, rows[mine], segment[concept.criterion][mine], block[mine, k]
                )
                parts.append(told.assign(row=mine, size=-np.abs(block[mine, k])))
        rest = gap - np.where(shown, block, 0.0).sum(axis=1)
        count = ((np.abs(block) >= choice.SMALLEST_POINTS) & ~shown).sum(axis=1)
        parts.append(self._other(count, rest, rows).assign(row=np.arange(len(rows)), size=np.inf))
        result = pd.concat(parts, ignore_index=True)
        result = result.sort_values(["row", "size", "concept"], kind="stable", ignore_index=True)
        result["position"] = result.groupby("row").cumcount() + 1
        # nothing left is zero but for rounding, whose sign says nothing
        result["direction"] = np.where(result["points"] > -ROUNDING_POINTS, "for", "against")
        result["customer_id"] = self.population.customer_ids[rows[result["row"].to_numpy(np.intp)]]
        return result[list(COLUMNS)]

    def _mark_unknown(self, concept: Concept, rows: Rows, comparison: NDArray[np.int8]) -> None:
        """A category that is not on record is no fact."""
        if concept.is_category(self.points[concept.criterion]):
            texts = self.population.texts[concept.name.partition(":")[2]][rows]
            comparison[pd.isna(texts)] = UNKNOWN

    def _told(
        self, concept: Concept, i: int, how: int, rows: Rows, segment: Rows, value: Floats
    ) -> pd.DataFrame:
        """One concept in words, for the customers at `rows`, by the fact of player `i` and one comparison."""
        points, peers = self.points[concept.criterion], self.peers[concept.criterion]
        feature, own = points.players[i], points.facts[rows, i]
        values: dict[str, Any] = {"own": own}
        if concept.is_category(points):
            feature = replace(feature, name=concept.name)
            values["own"] = self.population.texts[concept.name.partition(":")[2]][rows]
        elif how not in (UNKNOWN, CLOSE):
            values["unit"] = self.words.unit(feature)
            if points.support is not None:
                values["invoices"] = points.support[rows]
        if how in (TYPICAL, KINDRED):
            values["peer"] = points.reference[rows, i]
        elif how in (PEERS, EVERYONE):
            values["peer"], values["peers"] = peers.medians[segment, i], peers.counts[segment, i]
            values["lower_ratio"], values["higher_ratio"] = peers.beyond(own, segment, i)
        if len(self.points) > 1:
            values["criterion"] = concept.criterion
        values["points"] = value
        template = Template(feature, COMPARISONS[how], points.basis, self.population.are_prospects)
        return pd.DataFrame(
            {
                "criterion": concept.criterion,
                "concept": concept.name,
                "points": value,
                "template_id": template.name,
                "values": json_texts(values, len(rows)),
                **tell(template, values, self.words),
            }
        )

    def _other(self, count: NDArray[np.intp], rest: Floats, rows: Rows) -> pd.DataFrame:
        """The last line of each customer: what was not told, together; whether all was held against its segment."""
        values: dict[str, Any] = {"n": count.astype(np.float64), "points": rest}
        held = [
            np.where(self.weights[name][rows] > 0, points.of_segment[rows], True)
            for name, points in self.points.items()
            if points.of_segment is not None
        ]
        if held:
            values["of_segment"] = np.all(held, axis=0).astype(np.float64)
        return pd.DataFrame(
            {
                "criterion": None,
                "concept": "other",
                "points": rest,
                "template_id": "other",
                "values": json_texts(values, len(rest)),
                "fact": None,
                "peer_fact": None,
                "sentence": tell_rest(values["n"], rest, self.words),
            }
        )
