"""Declared attributes known at first contact -> float columns, by an encoding that travels with the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.features import Feature

if TYPE_CHECKING:
    from clv.config import Attribute

Floats = NDArray[np.float64]

MAX_LEVELS = 20
MIN_ROWS_OF_LEVEL = 20
MIN_ROWS_OF_LEVEL_SMALL = 5
SMALL_ROWS = 1000
CROWDED_RATIO = 0.10  # of those who have a level: so many without a flag of it
MONOTONE = {"raises": 1, "lowers": -1, None: 0}


@dataclass(frozen=True)
class _Column:
    name: str
    type: str  # 'category', 'number' or 'flag'
    levels: tuple[str, ...] = ()  # of a category: those with a column of their own
    monotone: int = 0


@dataclass(frozen=True)
class AttributeEncoder:
    """Turns attributes of customers into float64 columns, with the levels seen when it was fitted.

    A category becomes one 0/1 flag per frequent level; rare and unseen levels and nulls set none of them. A flag
    becomes 0/1, a number stays itself; their nulls stay null. Level names are data and may hold any characters,
    so they must not become names inside a model's text format.
    """

    columns: tuple[_Column, ...]

    @classmethod
    def fit(cls, frame: pd.DataFrame, attributes: Mapping[str, Attribute]) -> AttributeEncoder:
        """Learn the frequent levels from `frame`, one row per customer.

        A level needs 20 rows, or 5 where `frame` has fewer than 1,000; the 20 most frequent are kept, ties by name.
        Attributes that are known only after first contact are left out, whoever asks: they would leak the outcome.
        Raises ModelError where a declared attribute is no column of `frame`.
        """
        enough = MIN_ROWS_OF_LEVEL if len(frame) >= SMALL_ROWS else MIN_ROWS_OF_LEVEL_SMALL
        columns = []
        for name, attribute in sorted(attributes.items()):
            if attribute.known_at != "first_contact":
                continue
            levels: tuple[str, ...] = ()
            if attribute.type == "category":
                counts = _texts(_column(frame, name)).value_counts()
                frequent = counts[counts >= enough]
                ranked = sorted(frequent.items(), key=lambda item: (-item[1], item[0]))
                levels = tuple(str(level) for level, _ in ranked[:MAX_LEVELS])
            columns.append(_Column(name, attribute.type, levels, MONOTONE[attribute.effect]))
        return cls(tuple(columns))

    def features(self) -> tuple[Feature, ...]:
        """What each column of `transform` is, in order; all columns of an attribute share its concept."""
        features = []
        for column in self.columns:
            names = (
                [f"{column.name}={level}" for level in column.levels]
                if column.type == "category"
                else [column.name]
            )
            unit = "number" if column.type == "number" else "flag"
            features += [Feature(name, f"attribute:{column.name}", column.monotone, unit) for name in names]
        return tuple(features)

    def crowded(self, frame: pd.DataFrame) -> list[str]:
        """Categories of which at least a tenth of those with a level have one without a flag."""
        found = []
        for column in self.columns:
            if column.type == "category":
                levels = _texts(_column(frame, column.name)).dropna()
                if len(levels) and float((~levels.isin(column.levels)).mean()) >= CROWDED_RATIO:
                    found.append(column.name)
        return found

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The columns of `features`, float64, with the index of `frame`; infinite numbers count as null.

        Raises ModelError where a column is absent or a number or flag cannot be read as one.
        """
        encoded: dict[str, Floats] = {}
        names = iter(self.features())
        for column in self.columns:
            values = _column(frame, column.name)
            if column.type == "category":
                texts = _texts(values)
                for level in column.levels:
                    encoded[next(names).name] = (texts == level).fillna(False).to_numpy(dtype=np.float64)
            else:
                encoded[next(names).name] = _numbers(values, column)
        return pd.DataFrame(encoded, index=frame.index, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The encoding as JSON types."""
        return {
            "columns": [
                {
                    "name": column.name,
                    "type": column.type,
                    "levels": list(column.levels),
                    "monotone": column.monotone,
                }
                for column in self.columns
            ]
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> AttributeEncoder:
        """The encoder that `to_dict` wrote."""
        return cls(
            tuple(
                _Column(column["name"], column["type"], tuple(column["levels"]), column["monotone"])
                for column in content["columns"]
            )
        )


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame.columns:
        raise ModelError(
            f"Expected the attribute {name!r} as a column, found {', '.join(map(str, frame.columns))}. "
            "Map it in sources.customers, or remove it from attributes."
        )
    return frame[name]


def _texts(values: pd.Series) -> pd.Series:
    return values.astype("string")


def _numbers(values: pd.Series, column: _Column) -> Floats:
    try:
        if column.type == "flag":
            values = values.astype("boolean")
        numbers = values.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"Expected the attribute {column.name!r} to be a {column.type}, found values that are none: {error}. "
            "Declare it as a category, or mend the mapping in sources.customers."
        ) from error
    return np.where(np.isfinite(numbers), numbers, np.nan)
