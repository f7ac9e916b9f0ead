"""Who is explained, and what their peers look like: the comparison beside a customer's own fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.explain.words import Words, decimals

if TYPE_CHECKING:
    from clv.config import Config
    from clv.points import Points

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Population:
    """Who is explained, one row each: ids, segments, who counts as a peer, and their categories as text.

    `texts`: attribute -> text of each row, None where it is not on record.
    """

    customer_ids: NDArray[Any]
    segments: NDArray[Any]
    is_peer: NDArray[np.bool_]
    texts: Mapping[str, NDArray[Any]]
    are_prospects: bool

    @classmethod
    def of(cls, frame: pd.DataFrame, config: Config) -> Population:
        """Active customers are each other's peers, and so are all prospects."""
        segments = frame["segment"].to_numpy(dtype=str)
        texts = {"segment": segments.astype(object)}
        for name, attribute in config.known_at_first_contact.items():
            if attribute.type == "category":
                texts[name] = frame[name].astype("object").where(frame[name].notna(), None).to_numpy()
        are_prospects = "is_active" not in frame
        is_peer = np.ones(len(frame), dtype=bool) if are_prospects else frame["is_active"].to_numpy(bool)
        return cls(frame["customer_id"].to_numpy(), segments, is_peer, texts, are_prospects)


@dataclass(frozen=True)
class Peers:
    """What one criterion's facts are among the peers, as they are shown: a row per segment and, last, one of everyone.

    A segment in which fewer than `explain.minimum_peers` have the fact is widened to everyone: `is_widened`.
    `counts`: how many customers stand behind each figure. All are [segments + 1, players]; `percentiles`, the
    smallest figures that 1 %, 2 %, … 100 % of the peers do not exceed, [segments + 1, players, 100].
    """

    segments: pd.Index
    medians: Floats
    counts: Floats
    is_widened: NDArray[np.bool_]
    percentiles: Floats
    places: Sequence[int]  # decimals of each player as shown

    @classmethod
    def of(cls, points: Points, population: Population, config: Config, words: Words) -> Peers:
        """Of the segments of `population`, among those who count as peers."""
        codes, segments = pd.factorize(population.segments[population.is_peer], sort=True)
        in_order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[in_order], np.arange(1, len(segments)))
        shape = (len(segments) + 1, len(points.players))
        medians, counts, percentiles = np.full(shape, np.nan), np.zeros(shape), np.full((*shape, 100), np.nan)
        places = [decimals(words.unit(player)) for player in points.players]
        for i in range(len(places)):
            facts = points.facts[population.is_peer, i]
            of_segments = np.split(facts[in_order], starts) if len(segments) else []
            for row, group in enumerate((*of_segments, facts)):
                known = np.sort(group[np.isfinite(group)])
                counts[row, i] = len(known)
                if len(known):
                    at = np.ceil(np.arange(1, 101) * len(known) / 100).astype(np.intp) - 1
                    percentiles[row, i] = np.round(known[at], places[i])
                    medians[row, i] = np.round(np.median(known), places[i]) + 0.0
        small = counts < config.explain.minimum_peers
        small[-1] = True
        if not config.segment:
            small[:] = True
        return cls(
            segments=pd.Index(segments),
            medians=np.where(small, medians[-1], medians),
            counts=np.where(small, counts[-1], counts),
            is_widened=small,
            percentiles=np.where(small[:, :, None], percentiles[-1], percentiles),
            places=places,
        )

    def rows(self, segments: NDArray[Any]) -> Rows:
        """The row of each segment; that of everyone for one without peers."""
        found = self.segments.get_indexer(segments)
        return np.where(found < 0, len(self.segments), found).astype(np.intp)

    def beyond(self, own: Floats, segment: Rows, i: int) -> tuple[Floats, Floats]:
        """How many of the peers have surely less than `own`, and how many more: ratios in hundredths.

        `segment`: rows of self; `i`: the player.
        """
        lower, higher = np.zeros(len(own)), np.zeros(len(own))
        shown = np.round(own, self.places[i])
        for row in np.unique(segment):
            mine, marks = segment == row, self.percentiles[row, i]
            lower[mine] = np.searchsorted(marks, shown[mine], side="left") / 100
            not_more = np.searchsorted(marks, shown[mine], side="right")
            higher[mine] = np.maximum(99 - not_more, 0) / 100
        return lower, higher
