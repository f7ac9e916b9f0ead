"""Changes in words: which of the customer's own facts moved most, and what the others, models and rules did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv.changes.blocks import BLOCKS
from clv.explain.choice import Concept, concepts_of
from clv.explain.words import Words, decimals, fill, json_texts
from clv.points import Points

if TYPE_CHECKING:
    from clv.config import Config

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

FACTS_TOLD = 2
TOLD_RATIO = 0.15  # a concept is told from this share of what the own facts changed
SMALLEST_POINTS = 0.05  # what rounds to 0.0 points says nothing
ROUNDING_POINTS = 1e-9


@dataclass(frozen=True)
class Facts:
    """Points and facts of the criteria in both months, by the models of today; `place_…`: the rows of who is shown (-1:
    not there). `weights`: of the criteria now, a row per row of `now`."""

    then: Sequence[Points]
    now: Sequence[Points]
    place_then: Rows
    place_now: Rows
    weights: pd.DataFrame

    def pairs(self) -> list[tuple[Points, Points, Floats]]:
        """Each criterion told in both months: then, now, and its weights for who is shown."""
        earlier = {points.criterion: points for points in self.then}
        return [
            (
                earlier[points.criterion],
                points,
                self.weights[points.criterion].to_numpy(np.float64)[self.place_now],
            )
            for points in self.now
            if points.criterion in earlier
        ]


@dataclass(frozen=True)
class _Moved:
    """A concept of one criterion: what each of its players' points changed, a row per customer shown."""

    concept: Concept
    then: Points
    now: Points
    by_player: Floats

    @property
    def points(self) -> Floats:
        return np.asarray(self.by_player.sum(axis=1), dtype=np.float64)


def rows(shown: pd.DataFrame, facts: Facts, config: Config) -> pd.DataFrame:
    """Rows of `changes` for the customers of `shown` (changes.blocks_of), one per block that has points.

    Who moved from tier to tier has the row of its facts whatever they changed: what shut or opened a gate, or a
    decision by hand, is told there.
    """
    words = Words.of(config)
    moved = shown["has_moved"].to_numpy(bool)
    parts = []
    for block in BLOCKS:
        points = shown[block].to_numpy(np.float64)
        template, sentence, values = _TELL[block](words, shown, points, facts)
        silent = np.abs(points) < SMALLEST_POINTS
        if block == "facts":
            rule, is_told = _by_rule(words, shown)
            with_facts = fill(words["changes"]["rule"]["and_facts"], len(shown), rule=rule, facts=sentence)
            sentence = np.where(is_told, np.where(silent, rule, with_facts), sentence)
            silent &= ~is_told
        part = pd.DataFrame(
            {
                "customer_id": shown["customer_id"],
                "block": block,
                "points": points,
                "template_id": pd.Series(template).mask(silent, None),
                "values": values,
                "sentence": pd.Series(sentence).mask(silent, None),
            }
        )
        keep = np.abs(points) >= ROUNDING_POINTS
        parts.append(part[keep | moved if block == "facts" else keep])
    return pd.concat(parts, ignore_index=True)


Told = tuple[NDArray[np.object_], NDArray[np.object_], list[str]]


def _facts(words: Words, shown: pd.DataFrame, points: Floats, facts: Facts) -> Told:
    """The concepts that moved most in the direction of the block, each by a fact then and now."""
    n, form = len(shown), words["changes"]["facts"]
    told = [_differences(words, pair, facts) for pair in facts.pairs()]
    concepts = [concept for group in told for concept in group]
    effect = words.points(points)
    template = np.full(n, "facts", dtype=object)
    sentence = fill(form["alone"], n, points=effect)
    shares = np.full(n, np.nan)
    if concepts:
        sign = np.sign(points)
        sizes = np.column_stack([concept.points * sign for concept in concepts])
        enough = np.maximum(TOLD_RATIO * np.abs(points), SMALLEST_POINTS)[:, None]
        pieces = np.full(n, "", dtype=object)
        count, shares = np.zeros(n, dtype=int), np.zeros(n)
        order = np.argsort(-sizes, axis=1, kind="stable")
        for place in range(len(concepts)):
            for k in np.unique(order[:, place]):
                mine = (order[:, place] == k) & (sizes[:, k] >= enough[:, 0]) & (count < FACTS_TOLD)
                rows_of = np.flatnonzero(mine)
                if len(rows_of) == 0:
                    continue
                text, found = _fact(words, concepts[k], facts, rows_of, sign[rows_of])
                chosen = rows_of[found]
                joint = np.where(count[chosen] > 0, form["and"], "")
                pieces[chosen] = pieces[chosen] + joint + text[found]
                template[chosen] = np.where(
                    count[chosen] == 0, "facts." + concepts[k].concept.name, template[chosen]
                )
                shares[chosen] += concepts[k].points[chosen]
                count[chosen] += 1
        whole = (count == 1) & (np.abs(shares - points) < SMALLEST_POINTS)
        some = fill(form["some"], n, told=pieces, points=effect)
        only = fill(form["only"], n, told=pieces)
        sentence = np.select([whole, count > 0], [only, some], sentence)
        shares = np.where(count > 0, shares, np.nan)
    return template, sentence, json_texts({"points": points, "told_points": shares}, n)


def _differences(words: Words, pair: tuple[Points, Points, Floats], facts: Facts) -> list[_Moved]:
    then, now, weights = pair
    step = now.points[facts.place_now] - then.points[facts.place_then]
    step = (
        np.where((facts.place_then >= 0)[:, None], step, 0.0) * np.where(weights > 0, weights, 0.0)[:, None]
    )
    return [
        _Moved(concept, then, now, step[:, list(concept.players)])
        for concept in concepts_of(now, words)
        if not concept.is_category(now)
    ]


def _fact(
    words: Words, moved: _Moved, facts: Facts, rows_of: Rows, sign: Floats
) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """The fact of a concept that moved, as shown, with what it was; and for whom there is one."""
    n = len(rows_of)
    text, found = np.full(n, "", dtype=object), np.zeros(n, dtype=bool)
    here, there = facts.place_now[rows_of], facts.place_then[rows_of]
    bearing = moved.by_player[rows_of] * sign[:, None]
    strongest = bearing.max(axis=1, initial=0.0)
    effect = words.points(moved.points[rows_of])
    for least in (0.3, 0.0):
        for place, i in enumerate(moved.concept.players):
            feature = moved.now.players[i]
            unit = words.unit(feature)
            own, was = moved.now.facts[here, i], moved.then.facts[there, i]
            differs = np.round(own, decimals(unit)) != np.round(was, decimals(unit))
            bears = (bearing[:, place] > 0) & (bearing[:, place] >= least * strongest)
            mine = ~found & bears & differs & np.isfinite(own) & np.isfinite(was)
            if feature.monotone:  # never a fact against the direction of its points
                mine &= (own - was) * feature.monotone * moved.now.direction * sign > 0
            if not mine.any():
                continue
            support = None if moved.now.support is None else moved.now.support[here[mine]]
            fact = words.fact(feature, moved.now.basis, words.figures(own[mine], unit), support)
            before = words.figures(was[mine], unit)
            form = words["changes"]["facts"]["fact"]
            text[mine] = fill(form, int(mine.sum()), fact=fact, before=before, points=effect[mine])
            found |= mine
    return text, found


def _peers(words: Words, shown: pd.DataFrame, points: Floats, facts: Facts) -> Told:
    tier = shown["edge_tier"].fillna("").to_numpy(object)
    form = words["changes"]["peers"]
    effect = words.points(points)
    up, down = (fill(form[way], len(shown), tier=tier, points=effect) for way in ("up", "down"))
    template = np.where(points < 0, "peers.up", "peers.down").astype(object)
    return template, np.where(points < 0, up, down), json_texts({"points": points, "tier": tier}, len(shown))


def _model(words: Words, shown: pd.DataFrame, points: Floats, facts: Facts) -> Told:
    sentence = fill(words["changes"]["model"], len(shown), points=words.points(points))
    return np.full(len(shown), "model", dtype=object), sentence, json_texts({"points": points}, len(shown))


def _policy(words: Words, shown: pd.DataFrame, points: Floats, facts: Facts) -> Told:
    form, tier = words["changes"]["policy"], shown["edge_tier"].fillna("").to_numpy(object)
    effect = words.points(points)
    came_in = shown["came_in"].to_numpy(bool)
    band, rules = (fill(form[kind], len(shown), tier=tier, points=effect) for kind in ("band", "rules"))
    template = np.where(came_in, "policy.band", "policy.rules").astype(object)
    return template, np.where(came_in, band, rules), json_texts({"points": points, "tier": tier}, len(shown))


def _coverage(words: Words, shown: pd.DataFrame, points: Floats, facts: Facts) -> Told:
    form, n = words["changes"]["coverage"], len(shown)
    pieces, comma = {}, str(words["card"]["list"])
    for kind in ("appeared", "vanished"):
        listed = shown[kind].to_numpy(object)
        text = [comma.join(words.criterion_name(name) or name for name in found.split()) for found in listed]
        pieces[kind] = np.array(text, dtype=object)
    effect = words.points(points)
    forms = {kind: fill(form[kind], n, criteria=pieces[kind], points=effect) for kind in pieces}
    both = fill(form["both"], n, appeared=pieces["appeared"], vanished=pieces["vanished"], points=effect)
    appeared, vanished = (pieces[kind] != "" for kind in ("appeared", "vanished"))
    kinds = [appeared & vanished, appeared]
    template = np.select(kinds, ["coverage.both", "coverage.appeared"], "coverage.vanished").astype(object)
    sentence = np.select(kinds, [both, forms["appeared"]], forms["vanished"])
    return template, sentence, json_texts({"points": points, **pieces}, n)


_TELL = {"facts": _facts, "peers": _peers, "model": _model, "policy": _policy, "coverage": _coverage}


def _by_rule(words: Words, shown: pd.DataFrame) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Why a rule, and not the score, moved a customer: a gate that shut or opened, a decision by hand."""
    form = words["changes"]["rule"]
    moved = shown["has_moved"].to_numpy(bool)
    text = np.full(len(shown), "", dtype=object)
    pairs = zip(shown["tier_rule"], shown["rule_then"], moved, strict=True)
    for row, (now, then, is_moved) in enumerate(pairs):
        if not is_moved or now == then:
            continue
        now, then = str(now), str(then)
        if now == "inactive":
            text[row] = str(form["lapsed"])
        elif now == "override" or then == "override":
            text[row] = str(form["decided" if now == "override" else "decision_ended"])
        elif now.startswith("gate:"):
            text[row] = str(form["shut"]).replace("{gate}", gate_text(words, now))
        elif then.startswith("gate:"):
            text[row] = str(form["opened"]).replace("{gate}", gate_text(words, then))
        elif now == "provisional":
            text[row] = str(form["provisional"])
    return text, text != ""


def gate_text(words: Words, rule: str) -> str:
    """What shuts a gate, of the tier_rule `gate:…`, within a sentence."""
    name = rule.removeprefix("gate:")
    return str(words["changes"]["gates"].get(name, name.replace("_", " ")))
