"""Which concepts are told, and by which fact: large enough, and never against the direction of their points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clv.explain.peers import Peers, Rows
from clv.explain.words import Words, decimals

if TYPE_CHECKING:
    from clv.config import ExplainSettings
    from clv.points import Points

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SMALLEST_POINTS = 0.05  # what rounds to 0.0 points is no factor
SPEAKING_RATIO = 0.05  # a fact speaks for its concept if it bears this much of what the strongest one bears
# What a fact is compared with; the reference customer is the company's (`typical`) or the segment's (`kindred`). The
# last two say that there is no fact to tell: it is not on record, or it differs from every comparison by less than is
# shown.
PEERS, EVERYONE, TYPICAL, KINDRED, ALONE, UNKNOWN, CLOSE = range(7)
COMPARISONS = ("peers", "everyone", "typical", "kindred", "alone", "unknown", "close")


@dataclass(frozen=True)
class Concept:
    """The players of a criterion that say the same thing: columns of its Points, the most telling fact first."""

    name: str
    criterion: str
    players: tuple[int, ...]

    def points(self, points: Points, weights: Floats, rows: Rows) -> Floats:
        """Points of the composite, one per row."""
        own = points.points[np.ix_(rows, np.array(self.players))].sum(axis=1)
        return np.where(weights[rows] > 0, own * weights[rows], 0.0)

    def is_category(self, points: Points) -> bool:
        """Whether its players are the levels of one category."""
        attribute = self.name.partition(":")[2]
        return bool(attribute) and points.players[self.players[0]].name.startswith(f"{attribute}=")


def concepts_of(points: Points, words: Words) -> list[Concept]:
    """The concepts of a criterion, in the order of their first players."""
    members: dict[str, list[int]] = {}
    for i, player in enumerate(points.players):
        members.setdefault(player.concept, []).append(i)
    return [
        Concept(
            name, points.criterion, tuple(sorted(columns, key=lambda i: words.preference(points.players[i])))
        )
        for name, columns in members.items()
    ]


def shown_concepts(block: Floats, can_be_told: Flags, settings: ExplainSettings) -> Flags:
    """Which concepts are shown: large enough, the strongest for and against, and the largest of all always.

    `block`: points, a row per customer and a column per concept. The largest, where it could not be told
    otherwise, takes the place of the weakest of its side.
    """
    size = np.abs(block)
    enough = (size >= settings.minimum_share_ratio * size.sum(axis=1, keepdims=True)) & can_be_told
    enough &= size >= SMALLEST_POINTS
    everyone, largest = np.arange(len(block)), size.argmax(axis=1)
    enough[everyone, largest] = size[everyone, largest] > 0
    shown: Flags = np.zeros(block.shape, dtype=bool)
    for sign, limit in ((1, settings.reasons_for), (-1, settings.reasons_against)):
        strength = np.where(enough & (block * sign > 0), size, 0.0)
        order = np.argsort(-strength, axis=1, kind="stable")[:, :limit]
        picked: Flags = np.zeros(block.shape, dtype=bool)
        np.put_along_axis(picked, order, True, axis=1)
        shown |= picked & (strength > 0)
    return shown


def facts_told(
    concept: Concept, points: Points, sign: Floats, peers: Peers, segment: Rows, rows: Rows, words: Words
) -> tuple[Rows, NDArray[np.int8]]:
    """Per row the player whose fact is told, and what it is compared with (see COMPARISONS).

    `sign`: direction of the concept's points; `segment`: the rows of `peers`. A fact is told where its own points
    point the same way as the concept's, it differs as shown from the comparison, and for a monotone feature in the
    direction of the points. Facts that bear little are told only where no other can be.
    """
    columns = np.array(concept.players)
    bearing = points.points[np.ix_(rows, columns)] * sign[:, None]
    strongest = bearing.max(axis=1)
    player = columns[bearing.argmax(axis=1)].astype(np.intp)
    if concept.is_category(points):
        return player, np.full(len(rows), ALONE, dtype=np.int8)
    known = np.isfinite(points.facts[rows, player])
    comparison = np.where(known, CLOSE, UNKNOWN).astype(np.int8)
    untold = np.ones(len(rows), dtype=bool)
    # A judgement is held against the score that it changes, not against judgements of others.
    against = (TYPICAL,) if concept.name == "judgement" else (PEERS, TYPICAL)
    for at_least in (SPEAKING_RATIO * strongest, np.zeros(len(rows))):
        for other in against:
            for place, i in enumerate(concept.players):
                bears = (bearing[:, place] > 0) & (bearing[:, place] >= at_least)
                told = untold & bears & _differs(points, i, other, sign, peers, segment, rows, words)
                player[told] = i
                widened = peers.is_widened[segment[told], i] & (other == PEERS)
                comparison[told] = np.where(widened, EVERYONE, other)
                untold &= ~told
    if points.of_segment is not None:
        comparison[(comparison == TYPICAL) & points.of_segment[rows]] = KINDRED
    return player, comparison


def _differs(
    points: Points,
    i: int,
    against: int,
    sign: Floats,
    peers: Peers,
    segment: Rows,
    rows: Rows,
    words: Words,
) -> Flags:
    """Whether the fact of player `i` differs from the comparison, as shown, in the direction of the points."""
    feature = points.players[i]
    places = decimals(words.unit(feature))
    own = np.round(points.facts[rows, i], places)
    other = peers.medians[segment, i] if against == PEERS else np.round(points.reference[rows, i], places)
    step = own - other
    towards = feature.monotone * points.direction * sign if feature.monotone else np.sign(step)
    told = step * towards > 0
    if against == TYPICAL:  # most customers have no such figure, which is a difference too
        told |= np.isfinite(own) & np.isnan(other)
    return np.asarray(told, dtype=np.bool_)
