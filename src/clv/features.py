"""Core tables -> one row per customer, as of a date."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One model input: the concept it expresses to people, its direction and unit.

    `monotone`: +1 where a higher value may only raise the model's output, -1 only lower it, 0 free.
    """

    name: str
    concept: str
    monotone: int
    unit: str
