"""Whether the prospects of a month are still those that the model learned from: PSI per attribute, bins fixed then.

The population stability index of two samples of the same people is not 0: under no change it is about
(1/n + 1/m) chi-squared with B - 1 degrees of freedom, n and m the sizes of the samples and B the number of bins
(Yurdakul & Naranjo, 2020, *J. Risk Model Validation* 14), and more where bins of a small sample stay empty. So what
chance alone gives is drawn from the reference itself, and a month is flagged only above both that and the usual 0.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import metrics

Floats = NDArray[np.float64]

MOVED = 0.2
CHANCE = 0.95
DRAWS = 1000
LEVELS = 20  # of a category that have a bin of their own; further ones share one


@dataclass(frozen=True)
class Bins:
    """One column of the reference: its bins and the share of each, the missing ones last.

    A number has `edges` (metrics.psi_edges), a category or flag `levels`, after which comes one bin for all others.
    """

    edges: tuple[float, ...]
    levels: tuple[str, ...]
    is_number: bool
    shares: tuple[float, ...]

    @classmethod
    def fit(cls, column: pd.Series, kind: str) -> Self:
        """Of the reference's column; `kind` is an attribute's type: number, category or flag."""
        if kind == "number":
            known = column.to_numpy(np.float64, na_value=np.nan)
            edges = metrics.psi_edges(known)
            return cls(tuple(edges.tolist()), (), True, tuple(metrics.bin_shares(known, edges).tolist()))
        text = _text(column)
        counts = text.dropna().value_counts().sort_index(kind="stable")
        levels = tuple(counts.sort_values(ascending=False, kind="stable").index[:LEVELS].astype(str))
        return cls((), levels, False, tuple(_level_shares(text, levels).tolist()))

    def of(self, column: pd.Series) -> Floats:
        """Share of the column in each bin; nan without a row."""
        if self.is_number:
            return metrics.bin_shares(column.to_numpy(np.float64, na_value=np.nan), np.array(self.edges))
        return _level_shares(_text(column), self.levels)


@dataclass(frozen=True)
class Population:
    """What a model learned from, as shares per bin: `columns` by name; `people`, how many different ones."""

    people: int
    columns: Mapping[str, Bins]

    @classmethod
    def fit(cls, rows: pd.DataFrame, kinds: Mapping[str, str]) -> Self:
        """Of the training rows, several of one customer_id among them; `kinds`: column -> attribute type."""
        columns = {name: Bins.fit(rows[name], kind) for name, kind in kinds.items()} if len(rows) else {}
        return cls(int(rows["customer_id"].nunique()), columns)

    def to_dict(self) -> dict[str, Any]:
        return {"people": self.people, "columns": {name: asdict(bins) for name, bins in self.columns.items()}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        columns = {
            name: Bins(
                tuple(float(edge) for edge in entry["edges"]),
                tuple(str(level) for level in entry["levels"]),
                bool(entry["is_number"]),
                tuple(float(share) for share in entry["shares"]),
            )
            for name, entry in content["columns"].items()
        }
        return cls(int(content["people"]), columns)

    def against(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One row per column of the reference that `rows` have, by name.

        Columns: attribute, psi, expected_psi (mean under no change), chance_psi (exceeded one time in twenty then),
        bins, prospects and reference_prospects (how many different ones), is_moved. No row without a prospect.
        """
        now = len(rows)
        found = []
        for name, bins in sorted(self.columns.items()):
            if name not in rows or not now or not self.people:
                continue
            shares = bins.of(rows[name])
            psi = metrics.psi_of_shares(bins.shares, shares)
            drawn = _by_chance(np.array(bins.shares), now, self.people)
            chance = float(np.quantile(drawn, CHANCE))
            found.append(
                {
                    "attribute": name,
                    "psi": psi,
                    "expected_psi": float(drawn.mean()),
                    "chance_psi": chance,
                    "bins": int(((np.array(bins.shares) > 0) | (shares > 0)).sum()),
                    "prospects": now,
                    "reference_prospects": self.people,
                    "is_moved": psi > max(MOVED, chance),
                }
            )
        return pd.DataFrame(found, columns=COLUMNS)


COLUMNS = [
    *(
        "attribute",
        "psi",
        "expected_psi",
        "chance_psi",
        "bins",
        "prospects",
        "reference_prospects",
        "is_moved",
    ),
]


def said(found: pd.DataFrame) -> str:
    """The table of `Population.against` in a sentence."""
    worst = found.loc[found["psi"].idxmax()]
    moved = found.loc[found["is_moved"], "attribute"].tolist()
    verdict = f"moved: {', '.join(moved)}" if moved else f"none of {len(found)} attributes has moved"
    return (
        f"Prospects against those learned from, {verdict} (largest PSI {worst['psi']:.2f}, of {worst['attribute']}; "
        f"by chance {worst['expected_psi']:.2f} with {worst['prospects']:,} prospects)"
    )


def _by_chance(shares: Floats, now: int, reference: int) -> Floats:
    """PSI of pairs of samples of that many people, both drawn from the same `shares`."""
    rng = np.random.default_rng(0)
    before, after = (
        np.maximum(rng.multinomial(people, shares, DRAWS) / people, metrics.SMALLEST_SHARE)
        for people in (reference, now)
    )
    drawn: Floats = ((after - before) * np.log(after / before)).sum(axis=1)
    return drawn


def _text(column: pd.Series) -> pd.Series:
    return column.astype("object").map(str, na_action="ignore")


def _level_shares(text: pd.Series, levels: tuple[str, ...]) -> Floats:
    if not len(text):
        return np.full(len(levels) + 2, np.nan)
    place = pd.Index(levels).get_indexer(text)
    place = np.where(text.isna(), len(levels) + 1, np.where(place < 0, len(levels), place))
    shares: Floats = np.bincount(place, minlength=len(levels) + 2) / len(text)
    return shares
