"""Words and formats: figures and facts as people read them, in the configured language.

Works on whole columns: each distinct figure is written once, however many customers share it. Templates are taken
apart before anything is filled in, so whatever a company's data holds appears literally.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.features import Feature

if TYPE_CHECKING:
    from clv.config import Config

Floats = NDArray[np.float64]
Texts = NDArray[np.object_]

# How a figure is shown where that differs from the unit that the models know it by.
SHOWN_AS = {
    "overdue_ratio": "times",
    "amount_to_typical_ratio": "times",
    "is_disputed": "ratio",
    "is_due_at_year_end": "ratio",
    "due_day_of_month": "count",
    "due_weekday": "weekday",
    "overdue_days": "until_due",
    "judgement": "count",
    "judgement_alone": "count",
    **{
        f"{name}_days_beyond_terms": "days_beyond"
        for name in ("mean", "recent", "last", "last_three", "worst")
    },
}
_DECIMALS = {"ratio": 2, "probability": 2, "times": 1, "number": 1}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def decimals(unit: str) -> int:
    """To how many decimals figures of a unit are shown, and so compared."""
    return _DECIMALS.get(unit, 0)


def fill(template: str, rows: int, **parts: str | Texts) -> Texts:
    """`template` for each of so many rows; a part is one text, or one per row. Parts are never searched for braces."""
    text: Texts = np.full(rows, "", dtype=object)
    for i, piece in enumerate(_PLACEHOLDER.split(template)):
        if piece:
            text = np.asarray(text + (parts[piece] if i % 2 else piece), dtype=object)
    return text


def each_once(values: NDArray[Any], write: Callable[[Any], str]) -> Texts:
    """`write` of every value, called once per distinct value."""
    codes, distinct = pd.factorize(values, use_na_sentinel=False)
    written: Texts = np.array([write(value) for value in distinct.tolist()], dtype=object)
    return written[codes] if len(codes) else written


@dataclass(frozen=True)
class Words:
    """The language file, and what of the configuration its sentences tell.

    `basis` says what money facts are: contribution of orders or net sales.
    """

    content: Mapping[str, Any]
    config: Config

    @classmethod
    def of(cls, config: Config) -> Words:
        return cls(_language(config.language), config)

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    def unit(self, feature: Feature) -> str:
        """The unit in which a feature's figures are shown."""
        if feature.name == "order_amount" and self.config.order_amount.measure == "quantity":
            return "number"
        return SHOWN_AS.get(feature.name, feature.unit)

    def preference(self, feature: Feature) -> int:
        """The place of a feature's fact among those of its concept, the most telling first."""
        kind, of_what, _ = feature.concept.partition(":")
        return list(self["concepts"][kind]["facts"]).index(kind if of_what else feature.name)

    def concept_name(self, concept: str) -> str:
        """What a concept is about, within a sentence."""
        kind, of_what, name = concept.partition(":")
        return self.label(name) if of_what else str(self["concepts"][kind]["name"])

    def criterion_name(self, criterion: str) -> str | None:
        """What a criterion is called behind its points."""
        own = self.config.standards.get(criterion)
        return own.label if own else self["criteria"].get(criterion)

    def label(self, attribute: str) -> str:
        """The label of an attribute or own standard; of the segment, where segments are what a model knows."""
        if attribute in self.config.standards:
            return self.config.standards[attribute].label
        declared = self.config.attributes.get(attribute)
        if declared is None:
            return str(self["segment"])
        return declared.label or attribute.replace("_", " ")

    def fact(self, feature: Feature, basis: str, own: Texts, support: Floats | None = None) -> Texts:
        """What is said of a feature's figures `own`; `support`: how many invoices stand behind each.

        Raises ModelError for a feature without words.
        """
        config, attribute = self.config, feature.concept.partition(":")[2]
        label = self.label(attribute) if attribute else ""
        return fill(
            self._fact_template(feature, basis),
            len(own),
            own=own,
            n=own if support is None else self.invoices(support),
            label=label[:1].upper() + label[1:],
            late_after=self._days(config.payment.late_after_days),
            horizon=self.months(config.lifetime_value.horizon_months),
            order_months=self.months(config.order_amount.months),
        )

    def _fact_template(self, feature: Feature, basis: str) -> str:
        kind, of_what, _ = feature.concept.partition(":")
        concept, name = self["concepts"].get(kind, {}), kind if of_what else feature.name
        for variant in (basis, self.config.order_amount.measure, "facts"):
            if name in concept.get(variant, {}):
                return str(concept[variant][name])
        raise ModelError(
            f"expected words for {feature.name!r} under concepts.{kind} of language/{self.config.language}.yaml, "
            "found none. Add them."
        )

    def figures(self, values: Floats, unit: str) -> Texts:
        """Figures with their unit; a word where there is none."""
        form = self._formats().get(unit)

        def write(x: float) -> str:
            if math.isnan(x):
                return str(self["no_figure"])
            return form(x) if form else _number(x, 0)

        return each_once(np.round(values, decimals(unit)) + 0.0, write)

    def invoices(self, counts: Floats) -> Texts:
        """How many invoices."""
        one, many = self["units"]["invoice"]
        return each_once(
            np.round(np.nan_to_num(counts)), lambda n: f"{_number(n, 0)} {one if n == 1 else many}"
        )

    def points(self, values: Floats) -> Texts:
        """Points with their sign, as short as they are exact enough to be read."""
        one, many = self["units"]["point"]

        def write(x: float) -> str:
            sign = "−" if x < 0 else "+" if x > 0 else ""
            return f"{sign}{abs(x):,.1f} {one if abs(x) == 1 else many}"

        return each_once(np.round(values, 1) + 0.0, write)

    def _formats(self) -> dict[str, Callable[[float], str]]:
        units, currency = self["units"], self.config.reporting_currency

        def days_beyond(x: float) -> str:
            form = units["days_beyond"]["after" if x > 0 else "before" if x < 0 else "due"]
            return str(form).replace("{days}", self._days(abs(x)))

        def until_due(x: float) -> str:
            form = units["until_due"]["after" if x > 0 else "before" if x < 0 else "due"]
            return str(form).replace("{days}", self._days(abs(x)))

        return {
            "days": self._days,
            "days_beyond": days_beyond,
            "until_due": until_due,
            "money": lambda x: f"{_number(x, 0)} {currency}",
            "ratio": lambda x: f"{_number(x * 100, 0)} %",
            "probability": lambda x: f"{_number(x * 100, 0)} %",
            "times": lambda x: _number(x, 1),
            "number": lambda x: _number(x, 0 if x == round(x) else 1),
            "flag": lambda x: str(units["flag"]["yes" if x >= 0.5 else "no"]),
            "weekday": lambda x: str(units["weekday"][int(np.clip(x, 1, 7)) - 1]),
        }

    def _days(self, x: float) -> str:
        one, many = self["units"]["day"]
        return f"{_number(x, 0)} {one if abs(round(x)) == 1 else many}"

    def months(self, x: int) -> str:
        one, many = self["units"]["month"]
        return f"{x} {one if x == 1 else many}"


def json_texts(columns: Mapping[str, Iterable[float] | Texts]) -> list[str]:
    """One JSON object per row: texts quoted, numbers as Python writes them, null for what is missing."""
    parts = []
    for name, values in columns.items():
        column = np.asarray(values)
        if column.dtype == object:
            written = each_once(column, lambda text: json.dumps(text, ensure_ascii=False))
        else:
            numbers = np.round(column.astype(np.float64), 6) + 0.0
            written = each_once(
                numbers, lambda x: "null" if math.isnan(x) else repr(int(x) if x == int(x) else x)
            )
        parts.append(f'"{name}": ' + written)
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + ", " + part
    return list("{" + joined + "}")


def _number(x: float, places: int) -> str:
    return f"{round(x, places) + 0.0:,.{places}f}".replace("-", "−")


@cache
def _language(language: str) -> Mapping[str, Any]:
    text = resources.files("clv").joinpath(f"language/{language}.yaml").read_text(encoding="utf-8")
    content: Mapping[str, Any] = yaml.safe_load(text)
    return content
