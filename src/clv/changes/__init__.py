"""What changed since the month before, and why: rows of the table `changes`.

For everybody graded in both months by the same kind of model, the points of all blocks add up to the change of the
distance to the edge of the tier held the month before (see `blocks`; docs/method.md has the definition). Told is who
moved from tier to tier, or by 3 points and more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import policies, scenario
from clv.changes import told
from clv.changes.blocks import BLOCKS, NOW, THEN, Composites, Edges, points
from clv.criteria import Known, Measured, Models, judge, known, measure
from clv.edges import keeping, positions, reaching
from clv.grades import Graded, prospect_scores
from clv.points import Points, of_customers, of_prospects

if TYPE_CHECKING:
    from clv.composite import Grading
    from clv.config import Config
    from clv.contribution import Pricing
    from clv.warehouse import Engine

__all__ = ["Before", "Speaking", "blocks_of", "changes", "versions_of"]

Floats = NDArray[np.float64]

SHOWN_POINTS = 3.0
SMALLEST_POINTS = 1e-9  # less is rounding
SAME_WEIGHT = 1e-9
NO_ROWS = pd.DataFrame(columns=["customer_id", "block", "points", "template_id", "values", "sentence"])


class Speaking(Protocol):
    """Models, and the scales learned with them (champions.Champions)."""

    @property
    def models(self) -> Models: ...

    @property
    def grading(self) -> Grading: ...


@dataclass(frozen=True)
class Before:
    """The month before, as published.

    `grades`: all of its rows; `criteria`: customer_id, criterion, score, weight; `speaking`: who graded it, None where
    they grade this month too; `same_settings`: whether its run had the settings of this one.
    """

    grades: pd.DataFrame
    criteria: pd.DataFrame
    speaking: Speaking | None
    same_settings: bool

    @property
    def as_of(self) -> date:
        day: date = pd.Timestamp(self.grades["as_of_date"].iloc[0]).date()
        return day


_VERSIONS = {
    "lifetime-value": "lifetime_value_version",
    "payment-delay": "payment_delay_version",
    "prospect-value": "prospect_value_version",
    "grading": "grading_version",
}


def versions_of(grades: pd.DataFrame) -> dict[str, str]:
    """Model name -> the registered version that spoke in a published month."""
    known = {name: grades[column].dropna() for name, column in _VERSIONS.items()}
    return {name: str(versions.iloc[0]) for name, versions in known.items() if len(versions)}


def changes(
    db: Engine,
    before: Before | None,
    graded: Sequence[Graded],
    of_now: Sequence[Sequence[Points]],
    facts: Known,
    now: Speaking,
    config: Config,
    pricing: Pricing,
    *,
    policy_reset: Mapping[str, bool],
) -> pd.DataFrame:
    """Rows of `changes`: of customers and prospects who moved, or changed by 3 points and more.

    `graded`: customers and prospects; `of_now`: the points of their criteria; `facts`: all that was measured. `before`:
    None for the first month, which has no changes. `policy_reset`: name of each tier policy -> whether it has changed.
    Leaves `past` showing the month before. Raises ModelError where the models of the month before cannot speak of
    what is asked for today.
    """
    if before is None:
        return NO_ROWS
    then = _as_then(db, before, facts, now, config, pricing)
    shown = []
    for one in graded:
        reset = policy_reset["tier_policy" if one.are_customers else "prospect_tier_policy"]
        found = blocks_of(before, one, then, config, policy_reset=reset)
        shown.append(found[_is_shown(found)].reset_index(drop=True))
    told_about = pd.concat([found["customer_id"] for found in shown])
    if told_about.empty:
        return NO_ROWS
    with scenario.facts_of(db, pd.DataFrame({"customer_id": told_about, "copy": ""})):
        past = measure(db, before.as_of, config, pricing, now.models)
    rows = [_told(*each, past, now, config) for each in zip(shown, graded, of_now, strict=True)]
    return pd.concat(rows, ignore_index=True)


def _is_shown(found: pd.DataFrame) -> pd.Series:
    parts = found[list(BLOCKS)]
    large = (parts.abs() >= SHOWN_POINTS).any(axis=1) | (parts.sum(axis=1).abs() >= SHOWN_POINTS)
    return large | found["has_moved"]


def _as_then(
    db: Engine, before: Before, facts: Known, now: Speaking, config: Config, pricing: Pricing
) -> dict[tuple[int, int], tuple[Measured, Grading]]:
    """What models make of facts, where that says more than was published: (facts, model) -> measured, and by what.

    Empty where the models and the settings are those of the month before.
    """
    if before.speaking is None and before.same_settings:
        return {}
    old = before.speaking or now
    past = known(db, before.as_of, config, pricing, now.models)
    found = {(THEN, THEN): (judge(past, config, pricing, old.models), old.grading)}
    if before.speaking is not None:
        found[THEN, NOW] = (judge(past, config, pricing, now.models), now.grading)
        found[NOW, THEN] = (judge(facts, config, pricing, old.models), old.grading)
    return found


def blocks_of(
    before: Before,
    graded: Graded,
    then: Mapping[tuple[int, int], tuple[Measured, Grading]],
    config: Config,
    *,
    policy_reset: bool,
) -> pd.DataFrame:
    """Points of every block: a row per customer scored in both months.

    Columns: customer_id, the blocks, `tier_then`, `has_moved` (up or down), `rule_then`, `tier_rule`, `edge_tier`
    (whose edge; null where no score decides), `came_in` (judged as a member of its tier for the first time), and the
    criteria that `appeared` and `vanished`.
    """
    names = tuple(name for name in graded.order if name != "inactive")
    source = "history" if graded.are_customers else "prospect"
    old = before.grades[(before.grades["value_source"] == source).to_numpy(bool)]
    old = old.reset_index(drop=True)
    new = graded.frame.reset_index(drop=True)
    of_old, given = _published(before, old)
    criteria = list(graded.scores.columns) + [c for c in of_old if c not in graded.scores]
    of_old = of_old.reindex(columns=criteria)
    of_new = graded.scores.reset_index(drop=True).reindex(columns=criteria)
    current = [config.weights.get(name, 0.0) if graded.are_customers else 1.0 for name in criteria]
    weights = _weights(given, of_old, np.array(current), same_settings=before.same_settings)
    both, i, j = _in_both(old, new)
    scores = _scores(then, old, new, of_old, of_new, graded.are_customers, config)
    offset = np.zeros(of_old.shape)
    if (THEN, THEN) in then:  # late facts, or other settings: what the scores then are told from today
        offset = np.nan_to_num(of_old.to_numpy(np.float64) - scores[THEN, THEN])
        if before.same_settings:
            for model in (THEN, NOW):
                if (THEN, model) in scores:
                    scores[THEN, model] = scores[THEN, model] + offset
            offset = np.zeros_like(offset)
    composed = [frame["composite_score"].to_numpy(np.float64, na_value=np.nan) for frame in (old, new)]
    rows_of = (i, j)
    composites = Composites(
        scores={key: found[rows_of[key[0]]] for key, found in scores.items()},
        settings_offset=offset[i],
        weights=weights,
        measured=(np.isfinite(of_old.to_numpy(np.float64)[i]), np.isfinite(of_new.to_numpy(np.float64)[j])),
        published=(composed[THEN][i], composed[NOW][j]),
    )
    reweighed = bool(np.abs(weights[THEN] - weights[NOW]).max(initial=0.0) > SAME_WEIGHT)
    place_then = pd.Index(old["customer_id"]).get_indexer(new["customer_id"])
    known_then = (place_then >= 0)[:, None] & (len(old) > 0)
    edges, edge_tier, came_in = _edges(old, new, i, j, names, graded, config, policy_reset)
    everyone = [
        Composites(
            {key: found for key, found in scores.items() if key[0] == month},
            offset if month == THEN else np.where(known_then, offset[place_then], 0.0),
            weights,
            (np.isfinite(part.to_numpy(np.float64)),) * 2,
            (composed[month],) * 2,
        )
        for month, part in ((THEN, of_old), (NOW, of_new))
    ]
    players = {"facts", "peers", "coverage"}
    players |= {"model"} if before.speaking is not None else set()
    if reweighed or policy_reset or not before.same_settings or edges.by_policy.any():
        players.add("policy")
    changes_scores = reweighed or not before.same_settings
    edges = _with_rankings(edges, everyone, (old, new), names, before.speaking is not None, changes_scores)
    blocks = points(composites, edges, frozenset(players))
    was, is_ = composites.measured
    weighed = (weights[THEN] > 0) | (weights[NOW] > 0)
    return both.assign(
        **blocks,
        edge_tier=edge_tier,
        came_in=came_in,
        appeared=_listed(criteria, is_ & ~was & weighed),
        vanished=_listed(criteria, was & ~is_ & weighed),
    )


def _published(before: Before, old: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores and weights of the rows of `old`, a column per criterion."""
    mine = before.criteria[before.criteria["customer_id"].isin(old["customer_id"])]
    wide = mine.pivot(index="customer_id", columns="criterion", values=["score", "weight"])
    wide = wide.reindex(old["customer_id"].to_numpy())
    parts = [
        wide[name].astype("float64").reset_index(drop=True) if name in wide else pd.DataFrame(index=old.index)
        for name in ("score", "weight")
    ]
    return parts[0], parts[1]


def _weights(
    given: pd.DataFrame, of_old: pd.DataFrame, now: Floats, *, same_settings: bool
) -> tuple[Floats, Floats]:
    """The weights of the criteria then and `now`, before what is missing is weighed away.

    Under other settings those then are read from the customer of whom most was measured; a criterion that nobody had
    then weighs as it does now.
    """
    shares = given.reindex(columns=of_old.columns).fillna(0.0).to_numpy(np.float64)
    if same_settings or len(shares) == 0:
        return now, now
    then = shares[int((shares > 0).sum(axis=1).argmax())]
    unknown = (then == 0) & (now > 0) & of_old.isna().all(axis=0).to_numpy(bool)
    then = np.where(unknown, now, then * (now.sum() - now[unknown].sum()))
    return (now if np.abs(then - now).max(initial=0.0) <= SAME_WEIGHT else then), now


def _in_both(old: pd.DataFrame, new: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.intp], NDArray[np.intp]]:
    """Who has a composite in both months, with its tiers, and its places in both frames."""
    ids = pd.Index(old["customer_id"])
    place = ids.get_indexer(new["customer_id"])
    scored = np.isfinite(new["composite_score"].to_numpy(np.float64, na_value=np.nan))
    was = np.isfinite(old["composite_score"].to_numpy(np.float64, na_value=np.nan))
    j = np.flatnonzero((place >= 0) & scored & np.append(was, False)[place])
    i = place[j]
    both = pd.DataFrame(
        {
            "customer_id": new["customer_id"].to_numpy()[j],
            "tier_then": old["tier"].to_numpy()[i],
            "has_moved": new["tier_change"].isin(["up", "down"]).to_numpy(bool)[j],
            "rule_then": old["tier_rule"].to_numpy()[i],
            "tier_rule": new["tier_rule"].to_numpy()[j],
        }
    )
    return both, i, j


def _scores(
    then: Mapping[tuple[int, int], tuple[Measured, Grading]],
    old: pd.DataFrame,
    new: pd.DataFrame,
    of_old: pd.DataFrame,
    of_new: pd.DataFrame,
    are_customers: bool,
    config: Config,
) -> dict[tuple[int, int], Floats]:
    """(facts, model) -> scores of the rows of `old` (facts then) or `new` (facts now)."""
    found = {(NOW, NOW): of_new.to_numpy(np.float64)}
    for (facts, model), (measured, grading) in then.items():
        if are_customers:
            names = [name for name in measured.switched_on if name in grading.scales]
            scores = grading.score(measured.values[names]).set_axis(measured.customers["customer_id"])
        else:
            score = prospect_scores(measured.prospects, grading, config)
            scores = pd.DataFrame({"prospect": score}, index=measured.prospects["customer_id"])
        frame = old if facts == THEN else new
        found[facts, model] = scores.reindex(
            index=frame["customer_id"].to_numpy(), columns=of_new.columns
        ).to_numpy(np.float64)
    if (THEN, NOW) not in found:  # the same models: what they say today of the facts then
        found[THEN, NOW] = found.get((THEN, THEN), of_old.to_numpy(np.float64))
    return found


def _edges(
    old: pd.DataFrame,
    new: pd.DataFrame,
    i: NDArray[np.intp],
    j: NDArray[np.intp],
    names: Sequence[str],
    graded: Graded,
    config: Config,
    policy_reset: bool,
) -> tuple[Edges, pd.Series, NDArray[np.bool_]]:
    """The published edges of the tier held then, whose edge that is, and who has come in by then.

    The lowest tier has the edge of the tier above, as who comes from below has to reach it.
    """
    band = config.tiers.band_ratio
    in_tiers = new[(positions(new["tier"], names) >= 0)]
    if graded.are_customers:
        cut = policies.cut_of(in_tiers, config.tiers)
    else:
        cut = policies.pyramid(len(in_tiers), config.tiers.prospect_shares_ratio, band)
    by_rank, lowest = cut.sizes is not None, len(names) - 1
    held = positions(old["tier"], names)[i]
    stays = new["tier"].to_numpy()[j] == old["tier"].to_numpy()[i]
    own = [frame["tier_edge_score"].to_numpy(np.float64, na_value=np.nan) for frame in (old, new)]
    kept = np.array([keeping(new, names)[name] for name in names] + [np.nan])
    found = [own[THEN][i], np.where(stays, own[NOW][j], kept[held])]
    undecided = [frame["tier_rule"].isin(["override", "unconfirmed"]).to_numpy(bool) for frame in (old, new)]
    if len(names) > 1 and cut.measure == "composite_score":
        for month, frame in ((THEN, old), (NOW, new)):
            reach = reaching(frame, cut, band)[names[lowest - 1]]
            found[month] = np.where(held == lowest, reach, found[month])
    none = (held < 0) | ~np.isfinite(found[THEN]) | ~np.isfinite(found[NOW])
    none |= undecided[THEN][i] | (undecided[NOW][j] & stays)
    before = positions(old["previous_tier"], names)[i]
    came_in = ~none & (held < lowest) & ((before < 0) | (before > held))
    labels = np.array([*names, None], dtype=object)
    edge_tier = labels[np.where(none, -1, np.where(held == lowest, held - 1, held))]
    published = (np.where(none, 0.0, found[THEN]), np.where(none, 0.0, found[NOW]))
    edges = Edges(published, came_in | policy_reset, {(0, 0, 0): np.empty(0)} if by_rank else {})
    return edges, pd.Series(edge_tier, dtype="object"), came_in


def _with_rankings(
    edges: Edges,
    everyone: Sequence[Composites],
    frames: tuple[pd.DataFrame, pd.DataFrame],
    names: Sequence[str],
    other_models: bool,
    other_scores: bool,
) -> Edges:
    """`edges` with the rankings of everybody in tiers by any coalition of models and settings, each made once."""
    if not edges.rankings:
        return edges
    rankings: dict[tuple[int, int, int], Floats] = {}
    for peers, (composites, frame) in enumerate(zip(everyone, frames, strict=True)):
        inside = positions(frame["tier"], names) >= 0
        own = np.sort(composites.published[peers][inside])[::-1]
        for model in (THEN, NOW):
            for policy in (THEN, NOW):
                is_own = (model == peers or not other_models) and (policy == peers or not other_scores)
                asked = own
                if not is_own:
                    by = model if other_models else NOW
                    asked = np.sort(composites.of(peers, by, policy, peers)[inside])[::-1]
                rankings[peers, model, policy] = asked[np.isfinite(asked)]
    return Edges(edges.published, edges.by_policy, rankings)


def _listed(names: Sequence[str], flags: NDArray[np.bool_]) -> pd.Series:
    """The names flagged in each row, separated by spaces; '' for most."""
    found = np.full(len(flags), "", dtype=object)
    for k in np.flatnonzero(flags.any(axis=0)).tolist():
        found[flags[:, k]] = found[flags[:, k]] + np.where(found[flags[:, k]] == "", "", " ") + names[k]
    return pd.Series(found, dtype="object")


def _told(
    shown: pd.DataFrame,
    graded: Graded,
    of_now: Sequence[Points],
    past: Measured,
    now: Speaking,
    config: Config,
) -> pd.DataFrame:
    """The rows of who is shown, in words."""
    if shown.empty:
        return NO_ROWS
    if graded.are_customers:
        of_then = of_customers(past, now.models, now.grading, config.standards)
        ids_then = past.customers["customer_id"]
    else:
        of_then, ids_then = of_prospects(past, now.models, now.grading, config), past.prospects["customer_id"]
    place_then = pd.Index(ids_then).get_indexer(shown["customer_id"])
    place_now = pd.Index(graded.frame["customer_id"]).get_indexer(shown["customer_id"])
    facts = told.Facts(of_then, of_now, place_then, place_now, graded.weights)
    return told.rows(shown, facts, config)
