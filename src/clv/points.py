"""Model outputs -> points of a criterion's score, player by player.

A player is an input of a model, or a rule's value. For every row: baseline + the sum of its points = its score,
where the baseline is the score of the reference customer. A score is a monotone function g of a raw output with
Shapley values phi, so points = phi (g(raw) - g(raw_ref)) / (raw - raw_ref): a chain of secants, exact at both ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from clv import references
from clv.composite import Grading
from clv.criteria import PROSPECT_BASELINE, Measured, Models
from clv.features import Feature, segment_of
from clv.models.lifetime_value import LifetimeValue
from clv.models.payment_delay import PaymentDelay
from clv.models.payment_features import FEATURES as PAYMENT_FEATURES
from clv.models.payment_features import design as payment_design
from clv.models.prospect_value import ProspectValue
from clv.models.shapley import Attribution
from clv.scales import Scale
from clv.settings.grading import ECONOMIC

if TYPE_CHECKING:
    from clv.config import Config
    from clv.settings.grading import Standard

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
BLOCK_ROWS = 50_000
SMALLEST_STEP = 1e-9
SLOPE_STEP = 1e-5

COST_TO_SERVE = Feature("expected_cost_to_serve", "cost_to_serve", -1, "money")
COST_PLAYERS = {
    "expected_late_money_cost": Feature("expected_late_money_cost", "late_money", -1, "money"),
    "expected_credit_loss": Feature("expected_credit_loss", "credit_loss", -1, "money"),
}
JUDGEMENT = Feature("judgement", "judgement", 1, "number")
JUDGEMENT_ALONE = Feature("judgement_alone", "judgement", 1, "number")
RULES = {
    "contribution": Feature("contribution_margin", "contribution", 1, "money"),
    "order_amount": Feature("order_amount", "order_amount", 1, "money"),
    "payment": Feature("on_time_share_ratio", "payment_record", 1, "ratio"),
    "payment_record": Feature("on_time_share_ratio", "payment_record", 1, "ratio"),
    "lifetime_value": Feature("value_365", "recent_value", 1, "money"),
}


@dataclass(frozen=True)
class Points:
    """Points of one criterion: a row per customer as given, a column per player.

    `baseline` + the row's sum = the criterion's score; rows of customers not measured are 0. `facts` are the
    players' own values (null where missing), `reference` what they are held against: the reference customer's
    (null where most have none), and for a judgement the score without it. `direction`: +1 where a higher raw output
    means a better score, -1 where a worse one. `basis`: what money facts are (`contribution` or `revenue`).
    `support`: how many invoices stand behind a row's payment facts (null where unknown). `of_segment`: whose
    reference customer is its segment's (null: nobody's); then `baseline` is one for each row.
    """

    criterion: str
    players: tuple[Feature, ...]
    baseline: float | Floats
    points: Floats
    facts: Floats
    reference: Floats
    direction: int = 1
    basis: str = "contribution"
    support: Floats | None = None
    of_segment: NDArray[np.bool_] | None = None


def secants(attribution: Attribution, g: Callable[[Floats], Floats]) -> Floats:
    """phi carried through the monotone function `g`; its slope where raw and reference coincide.

    `g` maps an array of one raw output per row to one score per row.
    """
    raw, reference = attribution.raw, np.full_like(attribution.raw, attribution.raw_reference)
    step = raw - reference
    same = np.abs(step) < SMALLEST_STEP
    slope = (g(raw) - g(reference)) / np.where(same, 1.0, step)
    if same.any():
        tangent = (g(reference + SLOPE_STEP) - g(reference - SLOPE_STEP)) / (2 * SLOPE_STEP)
        slope = np.where(same, tangent, slope)
    return attribution.phi * np.asarray(slope, dtype=np.float64)[:, None]


def rule_points(
    criterion: str,
    player: Feature,
    values: Floats,
    scale: Scale,
    *,
    basis: str = "contribution",
    support: Floats | None = None,
) -> Points:
    """Points of a criterion that is one figure: all of them are the figure's."""
    points = np.nan_to_num(scale.score(values) - scale.baseline)
    reference = _everyones(np.array([scale.reference]), len(values))
    return Points(
        criterion, (player,), scale.baseline, points[:, None], values[:, None], reference, 1, basis, support
    )


def lifetime_value_points(model: LifetimeValue, frame: pd.DataFrame, scale: Scale) -> Points:
    """Points of the inputs of the lifetime-value model, and of the expected cost to serve.

    Cost to serve is taken off the model's value, so the two share by Shapley: the mean over both orders.
    """
    return _money_points("lifetime_value", model, frame, {}, {}, scale)


def economic_points(
    model: LifetimeValue,
    frame: pd.DataFrame,
    costs: pd.DataFrame,
    reference_costs: Mapping[str, float],
    scale: Scale,
) -> Points:
    """Points of the economic composite: the inputs of the lifetime-value model, and each cost that is taken off it.

    `costs`: criteria.expected_costs of the rows of `frame`. The model and the costs share by Shapley, over all orders.
    """
    own = {name: costs[name].to_numpy(np.float64) for name in costs}
    return _money_points(ECONOMIC, model, frame, own, reference_costs, scale)


def _money_points(
    criterion: str,
    model: LifetimeValue,
    frame: pd.DataFrame,
    costs: Mapping[str, Floats],
    reference_costs: Mapping[str, float],
    scale: Scale,
) -> Points:
    """Points where costs (cost to serve, and those given) are taken off the money that the model predicts.

    The model is one player beside the costs. Its share in a coalition goes to its inputs by secants; with every cost
    in a coalition of the others the weights are Shapley's, |S|!·(n − |S| − 1)!/n! over n players.
    """
    inputs = model.design(frame).to_numpy(np.float64)
    attribution = model.attribute(frame, inputs)
    players = (*model.players, COST_TO_SERVE, *(COST_PLAYERS[name] for name in costs))
    own = [model.expected_cost_to_serve(frame), *costs.values()]
    reference = [model.reference_cost, *(reference_costs[name] for name in costs)]

    def score(raw: Floats, charged: Sequence[bool]) -> Floats:
        """Scores where each cost is the customer's own, or (not charged) the reference customer's."""
        money = model.money(raw)
        for mine, cost, usual in zip(charged, own, reference, strict=True):
            money = money - (cost if mine else usual)
        return scale.score(money)

    n = len(own) + 1
    raw, raw_reference = attribution.raw, np.full_like(attribution.raw, attribution.raw_reference)
    of_inputs = np.zeros_like(attribution.phi)
    of_costs = np.zeros((len(raw), len(own)))
    for charged in product((False, True), repeat=len(own)):
        size = sum(charged)
        weight = factorial(size) * factorial(n - size - 1) / factorial(n)
        of_inputs += weight * secants(attribution, lambda x, charged=charged: score(x, charged))  # type: ignore[misc]
        for i in (i for i in range(len(own)) if not charged[i]):
            with_it = tuple(mine or j == i for j, mine in enumerate(charged))
            for base, others in ((raw_reference, size), (raw, size + 1)):
                weight = factorial(others) * factorial(n - others - 1) / factorial(n)
                of_costs[:, i] += weight * (score(base, with_it) - score(base, charged))
    facts = np.column_stack([inputs, *own])
    usual = [np.nan if value is None else value for value in model.reference]
    return Points(
        criterion,
        players,
        scale.baseline,
        np.column_stack([of_inputs, of_costs]),
        facts,
        _everyones(np.array([*usual, *reference]), len(frame)),
        basis=model.basis,
    )


def payment_points(model: PaymentDelay, rows: pd.DataFrame, customer_ids: pd.Series, scale: Scale) -> Points:
    """Points of the inputs of the payment model for each of `customer_ids`, through its typical and open invoices.

    `rows` is invoice_rows.customer_view; a customer without a row is not measured. A customer's probability is
    the weighted mean over its rows, and so are the contributions and the facts.
    """
    facts = payment_design(rows, model.shrinkages).to_numpy(np.float64)
    weight = rows["weight"].to_numpy(np.float64)[:, None]
    attribution = model.attribute(rows, facts)
    of_invoices = secants(attribution, expit) * weight
    known = np.isfinite(facts)
    due = rows["due_invoices"].to_numpy(np.float64, na_value=np.nan)[:, None] * weight
    sums = pd.DataFrame(np.hstack([of_invoices, np.where(known, facts * weight, 0.0), known * weight, due]))
    by_owner = sums.groupby(rows["customer_id"].to_numpy(str), sort=True).sum()
    aligned = by_owner.reindex(customer_ids.to_numpy(str)).to_numpy(np.float64)
    own, summed, weights, due_invoices = np.split(aligned, np.cumsum([len(PAYMENT_FEATURES)] * 3), axis=1)
    reference = float(expit(attribution.raw_reference))
    measured = np.isfinite(own[:, 0])
    points = np.zeros_like(own)
    risk = Attribution(reference + own[measured].sum(axis=1), reference, own[measured])
    points[measured] = secants(risk, scale.score)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_facts = summed / weights
    return Points(
        "payment",
        PAYMENT_FEATURES,
        scale.baseline,
        points,
        mean_facts,
        _everyones(model.reference, len(points)),
        direction=-1,
        support=due_invoices[:, 0],
    )


def prospect_points(
    model: ProspectValue, rows: pd.DataFrame, judgement: Floats, judgement_weight: Floats, scale: Scale
) -> Points:
    """Points of the inputs of both prospect models, and of a person's judgement where there is one.

    raw = log P(convert) + log value. A judgement (0-100) enters the score with `judgement_weight` (0 where null);
    its points are what it changes of the model's score.
    """
    parts = model.attribute(rows)
    conversion, value = parts["conversion"], parts["value"]
    of_conversion = secants(conversion, _log_logistic)
    reference = float(_log_logistic(np.array([conversion.raw_reference]))[0]) + value.raw_reference
    raw = _log_logistic(conversion.raw) + value.raw
    of_model = secants(
        Attribution(raw, reference, of_conversion + value.phi), lambda total: scale.score(np.exp(total))
    )
    score = scale.score(np.exp(raw))
    judged = np.nan_to_num(judgement_weight * (judgement - score))
    return Points(
        "prospect",
        (*model.features, JUDGEMENT),
        scale.baseline,
        np.column_stack([of_model, judged]),
        np.column_stack([model.design(rows).to_numpy(np.float64), judgement]),
        np.column_stack([_everyones(model.reference, len(rows)), score]),
    )


def judgement_points(judgement: Floats) -> Points:
    """Points of prospects whom judgement alone grades, against the middle of the scale."""
    facts = judgement[:, None]
    points = np.nan_to_num(facts - PROSPECT_BASELINE)
    reference = _everyones(np.array([PROSPECT_BASELINE]), len(facts))
    return Points("prospect", (JUDGEMENT_ALONE,), PROSPECT_BASELINE, points, facts, reference)


def of_customers(
    measured: Measured, models: Models, grading: Grading, standards: Mapping[str, Standard] | None = None
) -> list[Points]:
    """Points of every criterion that is switched on, a row per row of `measured.customers`.

    Computed in blocks of customers: what is held beside the result does not grow with their number. Where segments
    have reference customers of their own, those of each segment are held against theirs. `standards`: the company's
    own, by name.
    """
    frame = measured.customers
    owner = pd.Index(frame["customer_id"]).get_indexer(measured.payment_rows["customer_id"])

    def explained(rows: Rows, models: Models, grading: Grading) -> list[Points]:
        of_rows = np.isin(owner, rows)
        block = replace(
            measured,
            customers=frame.iloc[rows],
            values=measured.values.iloc[rows],
            payment_rows=measured.payment_rows[of_rows],
            costs=measured.costs.iloc[rows],
        )
        return [_of_criterion(name, block, models, grading, standards or {}) for name in measured.switched_on]

    return _by_reference(measured, models, grading, frame["segment"], explained)


def _by_reference(
    measured: Measured,
    models: Models,
    grading: Grading,
    segments: pd.Series,
    explained: Callable[[Rows, Models, Grading], list[Points]],
) -> list[Points]:
    """`explained` of all rows in blocks, each held against one reference customer, put together row by row."""
    of_segments = references.of_segments(measured, grading)
    if not of_segments:
        starts = range(0, max(len(segments), 1), BLOCK_ROWS)
        rows = np.arange(len(segments))
        blocks = [explained(rows[start : start + BLOCK_ROWS], models, grading) for start in starts]
        return [_stacked(list(parts)) for parts in zip(*blocks, strict=True)]
    names = segments.to_numpy(str)
    places, blocks = [], []
    for name in np.unique(names):
        seen_models, seen_grading = models.seen_from(str(name)), grading.seen_from(str(name), of_segments)
        rows = np.flatnonzero(names == name)
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            places.append(block)
            blocks.append(
                [
                    _of_segment(points, is_own=str(name) in of_segments.get(points.criterion, {}))
                    for points in explained(block, seen_models, seen_grading)
                ]
            )
    if not blocks:
        return explained(np.arange(0), models, grading)
    back = np.argsort(np.concatenate(places))
    return [_in_order(list(parts), back) for parts in zip(*blocks, strict=True)]


def _of_segment(points: Points, *, is_own: bool) -> Points:
    n = len(points.points)
    return replace(points, baseline=np.full(n, points.baseline), of_segment=np.full(n, is_own))


def _in_order(blocks: Sequence[Points], back: Rows) -> Points:
    """Blocks with reference customers of their own, row by row in the order `back`."""
    first = blocks[0]

    def joined(name: str) -> Any:
        return np.concatenate([getattr(block, name) for block in blocks])[back]

    names = ("baseline", "points", "facts", "reference", "of_segment")
    support = None if first.support is None else joined("support")
    return replace(first, support=support, **{name: joined(name) for name in names})


def _of_criterion(
    name: str, measured: Measured, models: Models, grading: Grading, standards: Mapping[str, Standard]
) -> Points:
    frame, value_model, scale = measured.customers, models.lifetime_value, grading.scales[name]
    if name == ECONOMIC:
        return economic_points(value_model, frame, measured.costs, grading.reference_costs, scale)
    if name == "lifetime_value" and value_model.mode != "last_period":
        return lifetime_value_points(value_model, frame, scale)
    if name == "payment" and isinstance(models.payment_delay, PaymentDelay):
        return payment_points(models.payment_delay, measured.payment_rows, frame["customer_id"], scale)
    values = measured.values[name].to_numpy(np.float64)
    if name in standards:
        own = standards[name]
        player = Feature(name, f"standard:{name}", scale.direction, "count" if own.judgement else own.unit)
        return rule_points(name, player, values, scale)
    support = frame["counted_invoices"].to_numpy(np.float64, na_value=np.nan)
    return rule_points(name, RULES[name], values, scale, basis=value_model.basis, support=support)


def _stacked(blocks: Sequence[Points]) -> Points:
    """Blocks of customers, whose reference customer is the same, one below the other."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    points = np.concatenate([block.points for block in blocks])
    support = [block.support for block in blocks if block.support is not None]
    return replace(
        first,
        points=points,
        facts=np.concatenate([block.facts for block in blocks]),
        reference=np.broadcast_to(first.reference[0], points.shape),
        support=np.concatenate(support) if support else None,
    )


def of_prospects(measured: Measured, models: Models, grading: Grading, config: Config) -> list[Points]:
    """Points of the prospects' criterion, a row per row of `measured.prospects`."""
    frame = measured.prospects
    judgement = frame["judgement"].to_numpy(np.float64, na_value=np.nan)
    if models.prospect_value is None:
        return [judgement_points(judgement)]
    weight = np.where(np.isnan(judgement), 0.0, config.prospect.judgement_weight_ratio)

    def explained(rows: Rows, models: Models, grading: Grading) -> list[Points]:
        model = models.prospect_value
        assert model is not None  # seen from wherever
        scale = grading.scales["prospect"]
        return [prospect_points(model, frame.iloc[rows], judgement[rows], weight[rows], scale)]

    return _by_reference(measured, models, grading, segment_of(frame, config.segment), explained)


def _everyones(reference: Floats, rows: int) -> Floats:
    """The reference customer's values for each of so many rows; takes no memory."""
    return np.broadcast_to(reference, (rows, len(reference)))


def _log_logistic(raw: Floats) -> Floats:
    return -np.logaddexp(0.0, -raw)
