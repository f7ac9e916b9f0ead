"""Who is explained, and what their peers look like: the comparison beside a customer's own fact."""

from __future__ import annotations

from collections.abc import Mapping
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
    """Medians of one criterion's facts as they are shown: a row per segment and, last, one of everyone.

    A segment in which fewer than `explain.minimum_peers` have the fact is widened to everyone: `is_widened`.
    `counts`: how many customers stand behind each median. All are [segments + 1, players].
    """

    segments: pd.Index
    medians: Floats
    counts: Floats
    is_widened: NDArray[np.bool_]

    @classmethod
    def of(cls, points: Points, population: Population, config: Config, words: Words) -> Peers:
        """Of the segments of `population`, among those who count as peers."""
        facts = pd.DataFrame(points.facts[population.is_peer])
        grouped = facts.groupby(population.segments[population.is_peer])
        counts = grouped.count().to_numpy(np.float64)
        everyone, all_counts = facts.median().to_numpy(np.float64), facts.count().to_numpy(np.float64)
        small = counts < config.explain.minimum_peers
        if not config.segment:
            small[:] = True
        medians = np.vstack([np.where(small, everyone, grouped.median().to_numpy(np.float64)), everyone])
        shown = [
            np.round(medians[:, i], decimals(words.unit(player))) for i, player in enumerate(points.players)
        ]
        return cls(
            segments=pd.Index(list(grouped.groups)),
            medians=np.column_stack(shown) + 0.0,
            counts=np.vstack([np.where(small, all_counts, counts), all_counts]),
            is_widened=np.vstack([small, np.ones((1, len(everyone)), dtype=bool)]),
        )

    def rows(self, segments: NDArray[Any]) -> Rows:
        """The row of each segment; that of everyone for one without peers."""
        found = self.segments.get_indexer(segments)
        return np.where(found < 0, len(self.segments), found).astype(np.intp)
