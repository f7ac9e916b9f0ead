"""Points of the composite -> reasons in words: at most a few, each with its fact, the peers' and its effect.

A reason is a concept: the inputs that say the same thing, summed. What is said is a fact that differs from the
comparison in the direction of the points; where the peers' does not, the reference customer's is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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
    from clv.grades import Graded
    from clv.points import Points

Floats = NDArray[np.float64]
BLOCK_ROWS = 50_000
ADDITIVITY_TOLERANCE = 1e-6
SMALLEST_POINTS = 0.05  # what rounds to 0.0 points is no factor
PEERS, EVERYONE, TYPICAL, ALONE, MISSING = range(5)
COMPARISONS = ("peers", "everyone", "typical", "alone", "missing")
# Figures are compared as they are shown: to this many decimals by unit.
DECIMALS = {
    "days": 0,
    "days_beyond": 0,
    "count": 0,
    "money": 0,
    "ratio": 2,
    "probability": 2,
    "times": 1,
    "flag": 0,
}
# Two figures of the models are known by their unit, but read differently by people.
SHOWN_AS = {
    "overdue_ratio": "times",
    "amount_to_typical_ratio": "times",
    "is_disputed": "ratio",
    "is_due_at_year_end": "ratio",
    "due_day_of_month": "count",
    "due_weekday": "count",
    "overdue_days": "days_beyond",
    "judgement": "count",
    **{
        f"{name}_days_beyond_terms": "days_beyond"
        for name in ("mean", "recent", "last", "last_three", "worst")
    },
}


@dataclass(frozen=True)
class _Population:
    """Who is explained, one row each: ids, segments, who counts as a peer, and their categories as text."""

    customer_ids: NDArray[Any]
    segments: NDArray[Any]
    is_peer: NDArray[np.bool_]
    texts: Mapping[str, NDArray[Any]]
    are_prospects: bool


@dataclass(frozen=True)
class _Concept:
    """One column of the composite's points, with the facts that can be told about it."""

    name: str
    criterion: str
    players: tuple[int, ...]  # columns of the criterion's Points, preferred first
    points: Floats  # of the composite, a row per customer


def reasons(graded: Graded, criteria: Sequence[Points], config: Config) -> pd.DataFrame:
    """Rows of the table `reasons` for everyone with a score, by customer in the order of `graded`, and position.

    `criteria`: the points of each criterion, the same rows. Raises ModelError where points and score part by
    more than 1e-6.
    """
    words = _words(config.language)
    population, composite = _population_of(graded.frame, config), graded.frame
    concepts = [
        concept
        for points in criteria
        for concept in _concepts(points, graded.weights[points.criterion].to_numpy(np.float64), words)
    ]
    total = np.column_stack([concept.points for concept in concepts])
    gap = (composite["composite_score"] - composite["composite_baseline"]).to_numpy(np.float64)
    scored = np.isfinite(gap)
    miss = np.abs(total.sum(axis=1) - gap)[scored]
    if miss.size and miss.max() > ADDITIVITY_TOLERANCE:
        raise ModelError(
            f"Explanations must add up to the score within {ADDITIVITY_TOLERANCE:g} points, found "
            f"{int((miss > ADDITIVITY_TOLERANCE).sum())} customers off by up to {miss.max():.3g}. "
            "The models and the grading do not belong together; train again."
        )
    by_name = {points.criterion: points for points in criteria}
    peers = {
        name: _Peers(points, population, config.explain.minimum_peers) for name, points in by_name.items()
    }
    frames = []
    for start in range(0, len(gap), BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(gap)))
        rows = rows[scored[rows]]
        if len(rows):
            frames.append(_block(rows, concepts, total, gap, by_name, peers, population, config, words))
    if not frames:
        return pd.DataFrame(columns=["customer_id", "position"])
    return pd.concat(frames, ignore_index=True)


def _population_of(frame: pd.DataFrame, config: Config) -> _Population:
    texts = {}
    for name, attribute in config.known_at_first_contact.items():
        if attribute.type == "category":
            texts[name] = frame[name].astype("object").where(frame[name].notna(), "?").to_numpy()
    are_prospects = "is_active" not in frame
    everyone = np.ones(len(frame), dtype=bool)
    return _Population(
        frame["customer_id"].to_numpy(),
        frame["segment"].to_numpy(dtype=str),
        everyone if are_prospects else frame["is_active"].to_numpy(bool),
        texts,
        are_prospects,
    )


def _block(
    rows: NDArray[np.intp],
    concepts: Sequence[_Concept],
    total: Floats,
    gap: Floats,
    by_name: Mapping[str, Points],
    peers: Mapping[str, _Peers],
    population: _Population,
    config: Config,
    words: Mapping[str, Any],
) -> pd.DataFrame:
    block = total[rows]
    facts = [
        _fact_of(concept, by_name[concept.criterion], peers[concept.criterion], rows) for concept in concepts
    ]
    shown = _chosen(block, np.column_stack([comparison for _, comparison in facts]) >= 0, config)
    parts = []
    for k, concept in enumerate(concepts):
        picked = np.flatnonzero(shown[:, k])
        if len(picked):
            player, comparison = (column[picked] for column in facts[k])
            points = by_name[concept.criterion]
            parts.append(
                _told(
                    rows[picked],
                    concept,
                    points,
                    player,
                    comparison,
                    peers[concept.criterion],
                    population,
                    config,
                    words,
                )
            )
    rest = gap[rows] - np.where(shown, block, 0.0).sum(axis=1)
    count = ((np.abs(block) >= SMALLEST_POINTS) & ~shown).sum(axis=1)
    told = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"row": [], "points": []})
    told["size"] = -told["points"].abs()
    told = told.sort_values(["row", "size", "concept"], kind="stable", ignore_index=True)
    told["position"] = told.groupby("row").cumcount() + 1
    last = pd.DataFrame(
        {
            "row": rows,
            "criterion": None,
            "concept": "other",
            "points": rest,
            "template_id": "other",
            "values": [
                json.dumps({"n": int(n), "points": round(p, 6)}) for n, p in zip(count, rest, strict=True)
            ],
            "fact": None,
            "peer_fact": None,
            "sentence": [_other(int(n), p, words) for n, p in zip(count, rest, strict=True)],
            "position": shown.sum(axis=1) + 1,
        }
    )
    result = pd.concat([told.drop(columns="size"), last], ignore_index=True)
    result = result.sort_values(["row", "position"], kind="stable", ignore_index=True)
    result["direction"] = np.where(result["points"] >= 0, "for", "against")
    result.insert(0, "customer_id", population.customer_ids[result["row"].to_numpy(np.intp)])
    return result.drop(columns="row")


def _concepts(points: Points, weight: Floats, words: Mapping[str, Any]) -> list[_Concept]:
    """Players summed by concept, weighed into points of the composite."""
    columns: dict[str, list[int]] = {}
    for i, player in enumerate(points.players):
        columns.setdefault(player.concept, []).append(i)
    result = []
    for name, members in columns.items():
        told = words["concepts"]["attribute" if name.startswith("attribute:") else name]["facts"]
        order = {fact: i for i, fact in enumerate(told)}
        preferred = sorted(members, key=lambda i: order.get(points.players[i].name, 0))
        weighed = np.where(weight > 0, points.points[:, members].sum(axis=1) * weight, 0.0)
        result.append(_Concept(name, points.criterion, tuple(preferred), weighed))
    return result


def _chosen(block: Floats, can_be_told: NDArray[np.bool_], config: Config) -> NDArray[np.bool_]:
    """Which concepts are shown: large enough, the strongest for and against, and the largest of all always."""
    settings = config.explain
    size = np.abs(block)
    enough = (size >= settings.minimum_share_ratio * size.sum(axis=1, keepdims=True)) & can_be_told
    shown = np.zeros_like(enough)
    for sign, limit in ((1, settings.reasons_for), (-1, settings.reasons_against)):
        strength = np.where(enough & (block * sign > 0), size, 0.0)
        order = np.argsort(-strength, axis=1, kind="stable")[:, :limit]
        picked = np.take_along_axis(strength, order, axis=1) > 0
        np.put_along_axis(shown, order, picked, axis=1)
    largest = size.argmax(axis=1)
    everyone = np.arange(len(block))
    shown[everyone, largest] |= size[everyone, largest] > 0
    # The largest may be one too many where it could not be told otherwise: it takes the place of the weakest.
    for sign, limit in ((1, settings.reasons_for), (-1, settings.reasons_against)):
        mine = np.where(shown & (block * sign > 0), size, np.inf)
        over = np.isfinite(mine).sum(axis=1) > limit
        shown[over, mine[over].argmin(axis=1)] = False
    return shown


class _Peers:
    """Medians of a criterion's facts: of the own segment, or of everyone where the segment is too small."""

    def __init__(self, points: Points, population: _Population, minimum: int) -> None:
        units = [_unit(player) for player in points.players]
        facts = pd.DataFrame(points.facts)
        among = facts[population.is_peer]
        segments = population.segments[population.is_peer].astype(str)
        overall = among.median()
        medians = among.groupby(segments).median().reindex(np.unique(population.segments.astype(str)))
        counts = pd.Series(segments).value_counts().reindex(medians.index).fillna(0)
        self.is_segment = (counts >= minimum).to_numpy()
        filled = medians.to_numpy(np.float64, copy=True)
        filled[~self.is_segment] = overall.to_numpy(np.float64)
        self.medians = np.column_stack([_rounded(filled[:, i], unit) for i, unit in enumerate(units)])
        self.counts = np.where(self.is_segment, counts.to_numpy(np.float64), float(len(among)))
        self.segment = np.searchsorted(medians.index.to_numpy(str), population.segments.astype(str))


def _fact_of(
    concept: _Concept, points: Points, peers: _Peers, rows: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.int8]]:
    """Per row the player whose fact is told, and what it is compared with; -1 where no fact agrees."""
    player = np.full(len(rows), concept.players[0], dtype=np.intp)
    comparison = np.full(len(rows), -1, dtype=np.int8)
    sign = np.sign(concept.points[rows])
    segment = peers.segment[rows]
    if concept.name.startswith("attribute:") and "=" in points.players[concept.players[0]].name:
        return player, np.where(sign == 0, -1, ALONE).astype(np.int8)
    for against in (PEERS, TYPICAL):
        for i in concept.players:
            feature = points.players[i]
            unit = _unit(feature)
            own = _rounded(points.facts[rows, i], unit)
            other = (
                peers.medians[segment, i] if against == PEERS else _rounded(points.reference[i : i + 1], unit)
            )
            step = np.sign(own - other)
            told = (step != 0) & np.isfinite(step)
            if feature.monotone:
                told &= step * feature.monotone * points.direction * sign > 0
            elif against == TYPICAL:
                told &= np.sign(points.points[rows, i]) == sign
            told &= comparison < 0
            player[told] = i
            widened = EVERYONE if against == PEERS else TYPICAL
            comparison[told] = np.where(peers.is_segment[segment[told]], against, widened)
    # A judgement has no typical value to differ from.
    alone = (
        (comparison < 0) & (len(concept.players) == 1) & ~np.isfinite(points.reference[concept.players[0]])
    )
    comparison[alone & np.isfinite(points.facts[rows, concept.players[0]])] = ALONE
    return player, comparison


def _told(
    rows: NDArray[np.intp],
    concept: _Concept,
    points: Points,
    player: NDArray[np.intp],
    comparison: NDArray[np.int8],
    peers: _Peers,
    population: _Population,
    config: Config,
    words: Mapping[str, Any],
) -> pd.DataFrame:
    """Reasons of one concept in words, for the rows in which it is shown."""
    parts = []
    value = concept.points[rows]
    for i in np.unique(player):
        for against in np.unique(comparison[player == i]):
            mine = np.flatnonzero((player == i) & (comparison == against))
            feature = points.players[i]
            own, other = points.facts[rows[mine], i], peers.medians[peers.segment[rows[mine]], i]
            mode = MISSING if against < 0 else int(against)
            if mode == TYPICAL:
                other = np.full(len(mine), points.reference[i])
            facts, template = _facts(feature, own, rows[mine], mode, population, config, words)
            show = _formatter(_unit(feature), config, words)
            name = COMPARISONS[mode]
            told_peers: list[str | None] = [None] * len(mine)
            if mode <= TYPICAL:
                key = f"prospect_{name}" if population.are_prospects else name
                told_peers = [f"{words['comparison'][key]}: {show(x)}" for x in other]
            parts.append(
                pd.DataFrame(
                    {
                        "row": rows[mine],
                        "criterion": concept.criterion,
                        "concept": concept.name,
                        "points": value[mine],
                        "template_id": f"{template}.{name}",
                        "values": [
                            _values(o, x if mode <= TYPICAL else None, p, n if mode <= EVERYONE else None)
                            for o, x, p, n in zip(
                                own, other, value[mine], peers.counts[peers.segment[rows[mine]]], strict=True
                            )
                        ],
                        "fact": facts,
                        "peer_fact": told_peers,
                        "sentence": [
                            (f"{fact}; {peer}. " if peer else f"{fact}. ") + _points(p, words) + "."
                            for fact, peer, p in zip(facts, told_peers, value[mine], strict=True)
                        ],
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def _facts(
    feature: Feature,
    own: Floats,
    rows: NDArray[np.intp],
    mode: int,
    population: _Population,
    config: Config,
    words: Mapping[str, Any],
) -> tuple[list[str], str]:
    """The customers' own facts in words, and the id of their template."""
    kind, _, name = feature.concept.partition(":")
    if kind == "attribute":
        label = config.attributes[name].label or name.replace("_", " ").capitalize()
        template, key = (
            words["concepts"]["attribute"]["facts"]["attribute"].replace("{label}", label),
            f"attribute:{name}",
        )
        concept = label
    else:
        template, key = words["concepts"][kind]["facts"][feature.name], feature.name
        concept = words["concepts"][kind]["name"]
    if mode == MISSING:
        return [words["missing"].replace("{concept}", concept)] * len(rows), key
    if kind == "attribute" and name in population.texts:
        return [template.replace("{own}", str(text)) for text in population.texts[name][rows]], key
    show = _formatter(_unit(feature), config, words)
    return [template.replace("{own}", show(x)) for x in own], key


def _values(own: float, other: float | None, points: float, peers: float | None) -> str:
    content: dict[str, float | int | None] = {"own": round(float(own), 6) if np.isfinite(own) else None}
    if other is not None:
        content["peer"] = round(float(other), 6)
    if peers is not None:
        content["peers"] = int(peers)
    content["points"] = round(float(points), 6)
    return json.dumps(content)


def _other(count: int, points: float, words: Mapping[str, Any]) -> str:
    template = words["other_none"] if count == 0 else words["other_one"] if count == 1 else words["other"]
    return str(template).replace("{n}", str(count)).replace("{points}", _points(points, words))


def _points(points: float, words: Mapping[str, Any]) -> str:
    rounded = round(float(points), 1) + 0.0
    sign = "−" if rounded < 0 else "+"
    one, many = words["units"]["point"]
    return f"{sign}{abs(rounded):.1f} {one if abs(rounded) == 1 else many}"


def _unit(feature: Feature) -> str:
    return SHOWN_AS.get(feature.name, feature.unit)


def _rounded(values: Floats, unit: str) -> Floats:
    return np.round(values, DECIMALS.get(unit, 1)) + 0.0


def _formatter(unit: str, config: Config, words: Mapping[str, Any]) -> Callable[[float], str]:
    """How figures of a unit are written."""
    currency, units = config.reporting_currency, words["units"]

    def days(x: float) -> str:
        n = round(x)
        return f"{n:,} {units['day'][0 if abs(n) == 1 else 1]}".replace("-", "−")

    def days_beyond(x: float) -> str:
        n = round(x)
        form = units["days_beyond"]["after" if n > 0 else "before" if n < 0 else "due"]
        return str(form).replace("{days}", days(abs(n)))

    forms: dict[str, Callable[[float], str]] = {
        "days": days,
        "days_beyond": days_beyond,
        "count": lambda x: f"{round(x):,}".replace("-", "−"),
        "money": lambda x: f"{round(x):,} {currency}".replace("-", "−"),
        "ratio": lambda x: f"{round(x * 100):,} %".replace("-", "−"),
        "probability": lambda x: f"{round(x * 100)} %",
        "flag": lambda x: str(units["flag"]["yes" if x >= 0.5 else "no"]),
    }
    return forms.get(unit, lambda x: f"{x:,.1f}".replace("-", "−"))


@cache
def _words(language: str) -> Mapping[str, Any]:
    text = resources.files("clv").joinpath(f"language/{language}.yaml").read_text(encoding="utf-8")
    words: Mapping[str, Any] = yaml.safe_load(text)
    return words
