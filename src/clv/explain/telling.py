"""A template and its figures -> a sentence: what was published once can be read in any language."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.explain.choice import COMPARISONS, EVERYONE, KINDRED, PEERS, TYPICAL
from clv.explain.words import PUBLISHED_DIGITS, Texts, Words, each_once, fill
from clv.features import Feature

if TYPE_CHECKING:
    from clv.config import Config

Floats = NDArray[np.float64]
Values = Mapping[str, Any]  # a column each: figures, texts, or one text for all rows

WITH_PEERS = (COMPARISONS[PEERS], COMPARISONS[EVERYONE])
COMPARED = (*WITH_PEERS, COMPARISONS[TYPICAL], COMPARISONS[KINDRED])
WITHOUT_FACT = ("unknown", "close")
FAR_RATIO = 0.9  # so many of the peers on the other side are worth saying
SCALED = ("money", "count", "number", "days", "ratio", "probability", "times")  # units with a less and a more


@dataclass(frozen=True)
class Template:
    """What the rows of one sentence pattern share; `feature` is the concept itself where that is a category."""

    feature: Feature
    comparison: str
    basis: str
    are_prospects: bool

    @property
    def name(self) -> str:
        return f"{self.feature.name}.{self.comparison}"


def tell(template: Template, values: Values, words: Words) -> dict[str, Texts | None]:
    """`fact`, `peer_fact` and `sentence` of rows that share a template, from what stands in their `values`.

    `own` and `points`; `unit` of the figures (`own` is a text as it stands without one); `invoices` behind a payment
    fact; `peer`, and of peers `lower_ratio` and `higher_ratio`; `criterion` where its name is told.
    """
    values = {name: _as_published(column) for name, column in values.items()}
    rows, unit = len(values["points"]), values.get("unit")
    effect = words.points(values["points"])
    if "criterion" in values and (criterion := words.criterion_name(values["criterion"])):
        effect = fill(words["effect"], rows, points=effect, criterion=criterion)
    if template.comparison in WITHOUT_FACT:
        fact = fill(words[template.comparison], rows, concept=words.concept_name(template.feature.concept))
    else:
        own = values["own"] if unit is None else words.figures(values["own"], unit)
        fact = words.fact(template.feature, template.basis, own, values.get("invoices"))
    if template.comparison not in COMPARED:
        return {
            "fact": fact,
            "peer_fact": None,
            "sentence": fill(words["sentence_alone"], rows, fact=fact, points=effect),
        }
    assert unit is not None  # what is compared is a figure
    peer = words.figures(values["peer"], unit)
    peer_fact = fill(words["peer_fact"], rows, who=_compared_with(template, unit, words), peer=peer)
    if template.comparison in WITH_PEERS and unit in SCALED:
        peer_fact = np.asarray(peer_fact + _far(values, words), dtype=object)
    sentence = fill(words["sentence"], rows, fact=fact, peer_fact=peer_fact, points=effect)
    return {"fact": fact, "peer_fact": peer_fact, "sentence": sentence}


def tell_rest(count: Floats, points: Floats, words: Words) -> Texts:
    """The line of what was not told one by one: how many factors, together so much."""
    number = each_once(count, lambda n: words.number(n, 0))
    forms = [
        fill(words["other"][form], len(points), n=number, points=words.points(points))
        for form in ("none", "one", "many")
    ]
    return np.asarray(np.choose(np.minimum(count, 2).astype(np.intp), forms), dtype=object)


def retell(reasons: pd.DataFrame, config: Config, *, basis: str, are_prospects: bool) -> pd.DataFrame:
    """Published rows of `reasons` with `fact`, `peer_fact` and `sentence` in the configured language.

    `basis`: `value_basis` of their grades. In the language they were published in they come back as they are, and so
    do rows without `values`.
    """
    words, told = Words.of(config), []
    for row in reasons.to_dict("records"):
        if pd.isna(row["values"]):
            told.append(row)
            continue
        content = json.loads(row["values"])
        values: dict[str, Any] = {
            name: value if name in ("unit", "criterion") else np.array([np.nan if value is None else value])
            for name, value in content.items()
        }
        if row["concept"] == "other":
            told.append(row | {"sentence": tell_rest(values["n"], values["points"], words)[0]})
            continue
        name, _, comparison = row["template_id"].rpartition(".")
        feature = Feature(name, row["concept"], 0, content.get("unit", "flag"))
        if "own" in values and "unit" not in values:
            values["own"] = values["own"].astype(object)
        found = tell(Template(feature, comparison, basis, are_prospects), values, words)
        told.append(row | {key: None if text is None else text[0] for key, text in found.items()})
    return pd.DataFrame(told, columns=list(reasons.columns))


def _as_published(column: Any) -> Any:
    """Figures to the digits that are published, so that a sentence told again is the same."""
    is_figures = isinstance(column, np.ndarray) and column.dtype != object
    return np.round(column, PUBLISHED_DIGITS) if is_figures else column


def _compared_with(template: Template, unit: str, words: Words) -> str:
    concept, name = template.feature.concept, template.feature.name
    special = words["concepts"].get(concept, {}).get("compared_with", {})
    if name in special:
        return str(special[name])
    group = words["prospects" if template.are_prospects else "customers"]
    form = "most" if unit == "flag" and template.comparison in WITH_PEERS else "all"
    return str(group[form][template.comparison])


def _far(values: Values, words: Words) -> Texts:
    """How many of the peers lie on the other side, where nearly all do."""
    lower, higher = values["lower_ratio"], values["higher_ratio"]
    far: Texts = np.full(len(lower), "", dtype=object)
    for share, form in ((lower, "most_less"), (higher, "most_more")):
        rows = share >= FAR_RATIO
        if rows.any():
            far[rows] = fill(words["far"][form], int(rows.sum()), share=each_once(share[rows], words.percent))
    return far
