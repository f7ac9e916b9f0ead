"""The three models of purchases, fitted with a verdict: BG/NBD, MBG/NBD, Pareto/NBD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clv.errors import ModelError
from clv.models import bg_nbd, lifetimes_guess, pareto_nbd
from clv.models.bg_nbd import BgNBD
from clv.models.histories import Histories
from clv.models.maximum_likelihood import PENALISERS, Derivatives, maximise
from clv.models.pareto_nbd import ParetoNBD

Floats = NDArray[np.float64]

PurchaseModel = Literal["bgnbd", "mbgnbd", "pareto_nbd", "auto"]

FALLBACKS = ("bgnbd", "mbgnbd")
SOUND = ("converged", "boundary")  # verdicts
PLAUSIBLE = 5.0  # the fitted total may be off from the actual one by this factor
HELD_OUT = 32_000  # distinct histories of each half that `auto` learns from and judges by


@dataclass(frozen=True)
class Family:
    """One of the models: how it is called, its parameters, which of them are times, and where a search may begin.

    Of `starts` the second is in units of first over the customers' mean rate: the model's mean rate is then theirs.
    Other times are in units of the longest history.
    """

    title: str
    parameters: tuple[str, ...]
    times: tuple[str, ...]
    build: Callable[..., BgNBD | ParetoNBD]
    likelihood: Callable[[Histories, Floats], Derivatives]
    starts: tuple[tuple[float, ...], ...]


_BG_STARTS = ((0.5, 1.0, 0.5, 2.0), (2.0, 1.0, 2.0, 2.0), (0.5, 1.0, 0.05, 0.5))
PURCHASE_MODELS = {
    "bgnbd": Family(
        "BG/NBD",
        ("r", "alpha", "a", "b"),
        ("alpha",),
        BgNBD,
        partial(bg_nbd.likelihood, may_leave_at_once=False),
        _BG_STARTS,
    ),
    "mbgnbd": Family(
        "MBG/NBD",
        ("r", "alpha", "a", "b"),
        ("alpha",),
        partial(BgNBD, may_leave_at_once=True),
        partial(bg_nbd.likelihood, may_leave_at_once=True),
        _BG_STARTS,
    ),
    "pareto_nbd": Family(
        "Pareto/NBD",
        ("r", "alpha", "s", "beta"),
        ("alpha", "beta"),
        ParetoNBD,
        pareto_nbd.likelihood,
        ((0.5, 1.0, 0.5, 1.0), (2.0, 1.0, 2.0, 1.0), (0.5, 1.0, 0.05, 1.0)),
    ),
}


@dataclass(frozen=True)
class Attempt:
    """One fit: its parameters in the unit of the histories, and what became of it.

    `verdict` is the search's (`maximum_likelihood.Minimum`) or `implausible total`: the repeat purchases that the
    model expects of new customers within their T are not within PLAUSIBLE times the actual ones.
    """

    name: str
    penaliser: float
    params: dict[str, float]
    verdict: str
    log_likelihood: float
    fitted_to_actual_ratio: float

    @property
    def is_sound(self) -> bool:
        return self.verdict in SOUND


def fit(
    histories: Histories, choice: PurchaseModel
) -> tuple[str, dict[str, float], str, dict[str, float | str]]:
    """Name, parameters, verdict and detail (see `btyd.Btyd`) of the chosen model, else of the first sound fallback.

    With `auto` the models are tried in the order of what they are worth to customers they have not seen. ModelError
    where nothing fits, with what became of every attempt.
    """
    names: list[str] = [choice]
    detail: dict[str, float | str] = {}
    why = ""
    if choice == "auto":
        scores = held_out_scores(histories)
        names = sorted(scores, key=lambda name: -scores[name])
        detail |= {f"held_out_log_likelihood_{name}": score for name, score in scores.items()}
        why = "; auto: no model fits both halves of the customers"
        if scores:
            shown = ", ".join(f"{PURCHASE_MODELS[name].title} {scores[name]:.5f}" for name in names)
            why = f"; auto chose {names[0]} by mean log-likelihood of customers held out: {shown}"
    names = list(dict.fromkeys((*names, *FALLBACKS)))
    attempts: list[Attempt] = []
    for name in names:
        attempts += _attempts(histories, name)
        if attempts[-1].is_sound:
            break
    else:
        tried = " nor ".join(PURCHASE_MODELS[name].title for name in names)
        raise ModelError(
            f"neither {tried} fits {histories.customers:.0f} customers with "
            f"{histories.weights[histories.without_repeats :].sum():.0f} repeat buyers (penalisers "
            f"{', '.join(f'{p:g}' for p in PENALISERS)}: {', '.join(each.verdict for each in attempts)}). "
            "Use a longer history, or grade by last-period value."
        )
    first, used = attempts[0], attempts[-1]
    verdict = first.verdict
    if len(attempts) > 1:
        verdict += (
            f" without a penaliser; used {used.name} with penaliser {used.penaliser:g} ({used.verdict})"
        )
    detail |= {
        "n": histories.customers,
        "penaliser": used.penaliser,
        "log_likelihood": used.log_likelihood,
        "fitted_to_actual_ratio": used.fitted_to_actual_ratio,
    }
    return used.name, used.params, verdict + why, detail


def held_out_scores(histories: Histories) -> dict[str, float]:
    """Mean log-likelihood a customer by each model that could be fitted on the other half of the customers.

    The halves are every other customer in the order of the histories, so the same whatever the order of the rows.
    """
    halves = [half.portion(HELD_OUT) for half in histories.halves()]
    scores = {}
    for name, model in PURCHASE_MODELS.items():
        total = 0.0
        for seen, unseen in (halves, halves[::-1]):
            attempt = _attempts(seen, name)[-1] if seen.purchases else None
            if attempt is None or not attempt.is_sound:
                break
            likelihoods = model.build(**attempt.params).log_likelihood(*unseen.columns)
            total += float(np.sum(unseen.weights * likelihoods))
        else:
            scores[name] = total / histories.customers
    return scores


def _attempts(histories: Histories, name: str) -> list[Attempt]:
    """Fits of one model with one penaliser after the other, until one is sound."""
    attempts: list[Attempt] = []
    for penaliser in PENALISERS:
        attempts.append(_attempt(histories, name, penaliser))
        if attempts[-1].is_sound:
            break
    return attempts


def _attempt(histories: Histories, name: str, penaliser: float) -> Attempt:
    model = PURCHASE_MODELS[name]
    # times in units of the longest history, so that no parameter is far from 1
    unit = float(histories.T.values[-1])
    scaled = histories.in_units_of(unit)
    rate = scaled.purchases / float(np.sum(scaled.by_T[0] * scaled.T.values))
    starts = [np.array([first, first * time / rate, *others]) for first, time, *others in model.starts]

    def guess(part: Histories) -> Floats | None:
        return lifetimes_guess.guess(name, part.columns, part.weights)

    minimum = maximise(model.likelihood, scaled, guess, starts, penaliser)
    found = zip(model.parameters, minimum.params.tolist(), strict=True)
    params = {parameter: value * unit if parameter in model.times else value for parameter, value in found}
    ratio = _fitted_to_actual(model.build(**params), histories)
    verdict = minimum.verdict
    if verdict in SOUND and not 1 / PLAUSIBLE <= ratio <= PLAUSIBLE:
        verdict = "implausible total"
    likelihood = -histories.customers * (minimum.loss - penaliser * float(np.sum(minimum.params**2)))
    return Attempt(
        name, penaliser, params, verdict, likelihood - histories.purchases * float(np.log(unit)), ratio
    )


def _fitted_to_actual(model: BgNBD | ParetoNBD, histories: Histories) -> float:
    """Repeat purchases the model expects of new customers within their T, over the actual ones."""
    T, (customers, _) = histories.T.values, histories.by_T
    new = np.zeros(len(T))
    with np.errstate(all="ignore"):
        purchases = model.purchases_if_active(new, new, T) * model.probability_active(new, new, new)
        return float(np.sum(purchases * customers) / histories.purchases)
