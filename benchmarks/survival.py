"""Plain survival analysis to compare with: Kaplan–Meier, Cox regression, and the Brier score under censoring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Steps:
    """A survival curve that falls at `times` to `survival`."""

    times: Floats
    survival: Floats

    def at(self, when: Floats, *, before: bool = False) -> Floats:
        """S(t), or S(t-) with `before`."""
        position = np.searchsorted(self.times, when, side="left" if before else "right")
        return np.concatenate([[1.0], self.survival])[position]


def kaplan_meier(times: Floats, happened: Flags) -> Steps:
    """The product-limit curve (Kaplan & Meier, 1958) of durations, censored where the event has not `happened`."""
    moments = np.unique(times[happened])
    at_risk = len(times) - np.searchsorted(np.sort(times), moments, side="left")
    events = np.array([np.sum(happened & (times == moment)) for moment in moments])
    return Steps(moments, np.cumprod(1 - events / at_risk))


@dataclass(frozen=True)
class Cox:
    """Proportional hazards (Cox, 1972), ties by Breslow (1974)."""

    coefficients: Floats
    centre: Floats
    times: Floats
    cumulative_hazard: Floats

    @classmethod
    def fit(cls, X: Floats, times: Floats, happened: Flags, ridge: float = 1e-6) -> Cox:
        """By Newton's method on the partial likelihood; `ridge` only keeps constant columns harmless."""
        centre = X.mean(axis=0)
        order = np.argsort(-times, kind="stable")
        Z, t, event = (X - centre)[order], times[order], happened[order]
        # The rows at risk at t are those up to the last one with that time, in falling order.
        last = len(t) - 1 - np.searchsorted(t[::-1], t, side="left")
        beta = np.zeros(Z.shape[1])
        for _ in range(50):
            risk = np.exp(Z @ beta)
            total = np.cumsum(risk)[last]
            first = np.cumsum(risk[:, None] * Z, axis=0)[last] / total[:, None]
            second = np.cumsum(risk[:, None, None] * Z[:, :, None] * Z[:, None, :], axis=0)[last]
            second = second / total[:, None, None] - first[:, :, None] * first[:, None, :]
            gradient = (Z - first)[event].sum(axis=0) - ridge * beta
            step = np.linalg.solve(second[event].sum(axis=0) + ridge * np.eye(len(beta)), gradient)
            beta = beta + step
            if np.abs(step).max() < 1e-10:
                break
        risk = np.exp(Z @ beta)
        total = np.cumsum(risk)[last]
        moments, position = np.unique(t[event], return_inverse=True)
        jumps = np.bincount(position, weights=1 / total[event])
        return cls(beta, centre, moments, np.cumsum(jumps))

    def survival(self, X: Floats, when: Floats) -> Floats:
        """P(not yet at each time): rows x times."""
        risk = np.exp((X - self.centre) @ self.coefficients)
        position = np.searchsorted(self.times, when, side="right")
        hazard = np.concatenate([[0.0], self.cumulative_hazard])[position]
        return np.exp(-risk[:, None] * hazard[None, :])


def brier_scores(survival: Floats, times: Floats, happened: Flags, when: Floats) -> Floats:
    """Brier score of P(not yet at t) for each of `when`, weighted by the inverse probability of being uncensored.

    Graf, Schmoor, Sauerbrei & Schumacher (1999), the censoring distribution by Kaplan–Meier.
    """
    censoring = kaplan_meier(times, ~happened)
    at_event = censoring.at(times, before=True)
    scores = []
    for k, moment in enumerate(when):
        gone = happened & (times <= moment)
        there = times > moment
        weight = np.where(gone, 1 / np.where(gone, at_event, 1.0), 0.0)
        weight = np.where(there, 1 / censoring.at(np.array([moment]))[0], weight)
        scores.append(np.mean(weight * (there - survival[:, k]) ** 2))
    return np.array(scores)


def integrated(scores: Floats, when: Floats) -> float:
    """Mean of the scores over the time from the first to the last moment, by trapezoids."""
    return float(np.trapezoid(scores, when) / (when[-1] - when[0]))
