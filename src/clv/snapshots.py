"""How scores and tiers move from month to month, learned from monthly snapshots before the training date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import grades, policies
from clv.composite import Grading
from clv.criteria import Measured, Models, measure
from clv.firmness import Calibration, Changes
from clv.grades import Graded
from clv.period import add_months, see
from clv.settings.grading import INACTIVE

if TYPE_CHECKING:
    from clv.config import Config
    from clv.contribution import Pricing
    from clv.warehouse import Engine

Floats = NDArray[np.float64]


def learn(
    db: Engine, as_of: date, config: Config, pricing: Pricing, models: Models, grading: Grading
) -> Grading:
    """`grading` with how scores usually move in a month, learned from tiers.firmness_months monthly snapshots.

    The models speak of earlier months as they do of `as_of`; a month without enough history is left out, and without
    two months in a row nothing is learned. Pairs are those who were active customers, or prospects, in both months.
    The months are also graded in a row, as `config` says, and who kept the tier calibrates firmness. Leaves `past`
    showing `as_of`.
    """
    days = [add_months(as_of, -back) for back in range(config.tiers.firmness_months, -1, -1)]
    [(first,)] = db.rows("SELECT min(order_date) FROM main.order_lines")
    history = timedelta(days=config.lifetime_value.min_history_days)
    pairs: dict[str, list[tuple[Floats, Floats]]] = {}
    before: dict[str, pd.Series] = {}
    months: list[Graded] = []
    for day in (day for day in days if first is not None and first + history <= day):
        measured = measure(db, day, config, pricing, models)
        if set(measured.switched_on) <= grading.scales.keys():
            months.append(_graded_after(months, measured, grading, config))
        now = _scores_by_id(measured, grading)
        for name in now.keys() & before.keys():
            both = pd.concat([before[name], now[name]], axis=1, join="inner").to_numpy(np.float64)
            pairs.setdefault(name, []).append((both[:, 0], both[:, 1]))
        before = now
    see(db, as_of)
    changes = {
        name: Changes.fit(*(np.concatenate(side) for side in zip(*found, strict=True)))
        for name, found in sorted(pairs.items())
    }
    grading = replace(grading, changes=changes)
    return replace(grading, calibration=_calibrate(months, grading, config))


# What grading the next month in a row, and the firmness of this one, read of a graded month.
_KEPT = ("customer_id", "value_source", "is_active", "composite_score", "tie_break", "gate", "is_provisional",
         "override_tier", "previous_tier", "policy_tier", "tier", "tier_rule")  # fmt: skip


def _graded_after(months: Sequence[Graded], measured: Measured, grading: Grading, config: Config) -> Graded:
    """The customers of the next of `months` in a row, without what people decided; no columns beyond need."""
    newest_first = list(reversed(months))[: config.tiers.confirmation_runs - 1]
    looked_at = [
        month.frame[["customer_id", "policy_tier"]].assign(month=back)
        for back, month in enumerate(newest_first, 1)
    ]
    graded = grades.grade_customers(
        measured,
        grading,
        config,
        months[-1].frame if months else grades.NOBODY,
        overrides=grades.NOBODY,
        policy_reset=False,
        earlier=pd.concat(looked_at) if looked_at else None,
    )
    measure = {config.tiers.measure} & set(graded.frame.columns)
    kept = graded.frame[list(dict.fromkeys((*_KEPT, *measure)))]
    return replace(graded, frame=kept, values=kept[[]], weights=kept[[]])


def _calibrate(months: Sequence[Graded], grading: Grading, config: Config) -> Calibration:
    """How often those stayed of whom the formula said so, over all months and the next one each."""
    formula, stayed = [], []
    for now, after in pairwise(months):
        active = now.frame["is_active"].to_numpy(bool)
        frame = now.frame[active]
        cut = policies.cut_of(frame, config.tiers)
        found = grades.firmness_of(
            frame, now.scores[active], config.weights, grading, cut, config.tiers.key, config
        )
        then = after.frame.set_index("customer_id")["tier"]
        then = frame["customer_id"].map(then[then != INACTIVE].astype("object"))
        known = then.notna().to_numpy(bool)
        formula.append(found[known])
        stayed.append((then == frame["tier"]).to_numpy(np.float64)[known])
    return Calibration.fit(np.concatenate(formula), np.concatenate(stayed)) if formula else Calibration()


def _scores_by_id(measured: Measured, grading: Grading) -> dict[str, pd.Series]:
    """Criterion -> score of each active customer (of each prospect), by customer_id."""
    active = measured.customers["is_active"].to_numpy(bool)
    scores = grading.score(measured.values[[n for n in measured.switched_on if n in grading.scales]])[active]
    scores = scores.set_axis(measured.customers.loc[active, "customer_id"])
    found = {str(name): scores[name] for name in scores}
    if "prospect" in grading.scales:
        score = grading.score(measured.prospect_values)["prospect"]
        found["prospect"] = score.set_axis(measured.prospects["customer_id"])
    return found
