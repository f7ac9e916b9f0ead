"""Words and formats: figures and facts as people read them, in the configured language.

Works on whole columns: each distinct figure is written once, however many customers share it. Templates are taken
apart before anything is filled in, so whatever a company's data holds appears literally.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.features import Feature
from clv.settings import languages

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
PUBLISHED_DIGITS = 6  # of the figures in `values`
_DECIMALS = {"ratio": 2, "probability": 2, "times": 1, "number": 1}


def decimals(unit: str) -> int:
    """To how many decimals figures of a unit are shown, and so compared."""
    return _DECIMALS.get(unit, 0)


def fill(template: str, rows: int, **parts: str | Texts) -> Texts:
    """`template` for each of so many rows; a part is one text, or one per row. Parts are never searched for braces."""
    text: Texts = np.full(rows, "", dtype=object)
    for i, piece in enumerate(languages.PLACEHOLDER.split(template)):
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
        return cls(languages.content(config.language), config)

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    def unit(self, feature: Feature) -> str:
        """The unit in which a feature's figures are shown."""
        if feature.name == "order_amount" and self.config.order_amount.measure == "quantity":
            return "number"
        return SHOWN_AS.get(feature.name, feature.unit)

    def preference(self, feature: Feature) -> int:
        """The place of a feature's fact among those of its concept, the most telling first; alike in all languages."""
        kind, of_what, _ = feature.concept.partition(":")
        facts = languages.content(languages.STANDARD)["concepts"][kind]["facts"]
        return list(facts).index(kind if of_what else feature.name)

    def concept_name(self, concept: str) -> str:
        """What a concept is about, within a sentence."""
        kind, of_what, name = concept.partition(":")
        return self.label(name) if of_what else str(self["concepts"][kind]["name"])

    def criterion_name(self, criterion: str) -> str | None:
        """What a criterion is called behind its points."""
        if criterion in self.config.standards:
            return self.label(criterion)
        found = self["criteria"].get(criterion)
        return None if found is None else str(found)

    def label(self, attribute: str) -> str:
        """The label of an attribute or own standard; of the segment, where segments are what a model knows."""
        declared = self.config.standards.get(attribute) or self.config.attributes.get(attribute)
        if declared is None:
            return str(self["segment"])
        if not declared.label:
            return attribute.replace("_", " ")
        return languages.label_in(declared.label, self.config.language)

    def opening(self, text: str) -> str:
        """A label as it opens a sentence or a column."""
        return text[:1].upper() + text[1:] if self["labels_capitalised"] else text

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
            n=own
            if support is None
            else each_once(np.nan_to_num(support), lambda n: self.counted("invoice", n)),
            label=self.opening(label),
            late_after=self.counted("day", config.payment.late_after_days),
            horizon=self.counted("month", config.lifetime_value.horizon_months),
            order_months=self.counted("month", config.order_amount.months),
        )

    def _fact_template(self, feature: Feature, basis: str) -> str:
        kind, of_what, _ = feature.concept.partition(":")
        concept, name = self["concepts"].get(kind, {}), kind if of_what else feature.name
        for variant in (basis, self.config.order_amount.measure, "facts"):
            if name in concept.get(variant, {}):
                return str(concept[variant][name])
        raise ModelError(
            f"expected words for {feature.name!r} under concepts.{kind} of the language {self.config.language}, "
            "found none. Add them."
        )

    def figure(self, value: float, unit: str) -> str:
        """One figure with its unit."""
        return str(self.figures(np.array([value]), unit)[0])

    def figures(self, values: Floats, unit: str) -> Texts:
        """Figures with their unit; a word where there is none."""
        form = self._formats().get(unit)

        def write(x: float) -> str:
            if math.isnan(x):
                return str(self["no_figure"])
            return form(x) if form else self.number(x, 0)

        return each_once(np.round(values, decimals(unit)) + 0.0, write)

    def points(self, values: Floats) -> Texts:
        """Points with their sign, as short as they are exact enough to be read."""
        signs, forms = self["numbers"], self["units"]["point"]

        def write(x: float) -> str:
            number = (signs["plus"] if x > 0 else "") + self.number(x, 1)
            return str(forms["one" if abs(x) == 1 else "many"]).replace("{n}", number)

        return each_once(np.round(values, 1) + 0.0, write)

    def counted(self, unit: str, n: float) -> str:
        """So many of a unit that is counted, in the form that their number asks for."""
        form = self["units"][unit]["one" if abs(round(n)) == 1 else "many"]
        return str(form).replace("{n}", self.number(n, 0))

    def number(self, x: float, places: int) -> str:
        """A number with the marks of the language."""
        marks = self["numbers"]
        table = {",": marks["thousands"], ".": marks["decimal"], "-": marks["minus"]}
        return f"{round(x, places) + 0.0:,.{places}f}".translate(str.maketrans(table))

    def percent(self, ratio: float) -> str:
        """A ratio as whole per cent."""
        return str(self["units"]["percent"]).replace("{n}", self.number(ratio * 100, 0))

    def signed_percent(self, ratio: float) -> str:
        """A change as whole per cent, with its sign."""
        return (str(self["numbers"]["plus"]) if round(ratio, 2) > 0 else "") + self.percent(ratio)

    def money(self, amount: float) -> str:
        """Whole money in the reporting currency."""
        currency = self.config.reporting_currency
        form = str(self["units"]["money"]).replace("{n}", self.number(amount, 0))
        return form.replace("{currency}", str(self["currencies"].get(currency, currency)))

    def day(self, day: date) -> str:
        """A date."""
        parts = {"year": f"{day.year:04}", "month": f"{day.month:02}", "day": f"{day.day:02}"}
        return str(fill(str(self["date"]), 1, **parts)[0])

    def _formats(self) -> dict[str, Callable[[float], str]]:
        units = self["units"]

        def side(form: Mapping[str, str]) -> Callable[[float], str]:
            def write(x: float) -> str:
                text = form["after" if x > 0 else "before" if x < 0 else "due"]
                return text.replace("{days}", self.counted("day", abs(x)))

            return write

        return {
            "days": lambda x: self.counted("day", x),
            "days_beyond": side(units["days_beyond"]),
            "until_due": side(units["until_due"]),
            "money": self.money,
            "ratio": self.percent,
            "probability": self.percent,
            "times": lambda x: str(units["times"]).replace("{n}", self.number(x, 1)),
            "number": lambda x: self.number(x, 0 if x == round(x) else 1),
            "flag": lambda x: str(units["flag"]["yes" if x >= 0.5 else "no"]),
            "weekday": lambda x: str(units["weekday"][int(np.clip(x, 1, 7)) - 1]),
        }


def json_texts(columns: Mapping[str, Iterable[float] | Texts | str], rows: int) -> list[str]:
    """One JSON object per row: texts quoted, numbers as Python writes them, null for what is missing.

    A column is a text for all rows, or has one figure or text for each.
    """
    parts = []
    for name, values in columns.items():
        if isinstance(values, str):
            written = np.full(rows, json.dumps(values, ensure_ascii=False), dtype=object)
        elif (column := np.asarray(values)).dtype == object:
            written = each_once(column, lambda text: json.dumps(text, ensure_ascii=False))
        else:
            numbers = np.round(column.astype(np.float64), PUBLISHED_DIGITS) + 0.0
            written = each_once(
                numbers, lambda x: "null" if math.isnan(x) else repr(int(x) if x == int(x) else x)
            )
        parts.append(f'"{name}": ' + written)
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + ", " + part
    return list("{" + joined + "}")
