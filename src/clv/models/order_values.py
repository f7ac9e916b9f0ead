"""What an order will bring: Gamma-Gamma with a verdict, or own and common mean weighed (shrinkage)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clv.models import gamma_gamma, lifetimes_guess
from clv.models.histories import Orders
from clv.models.maximum_likelihood import PENALISERS, maximise

Floats = NDArray[np.float64]

PLAUSIBLE = 5.0  # the fitted mean order may be off from the actual one by this factor
STARTS = ((1.0, 2.0, 1.0), (6.0, 4.0, 0.5), (0.5, 1.5, 1.0))  # p, q, v, the mean order being 1


def fit(orders: Orders) -> tuple[str, dict[str, float], str, dict[str, float | str]]:
    """Name, parameters, verdict and detail (see `btyd.Btyd`); the verdict is empty where nothing had to give way."""
    # values of size 1, whatever the currency
    unit = float(orders.totals.sum() / np.sum(orders.sizes * orders.counts))
    scaled = orders.in_units_of(unit)
    detail: dict[str, float | str] = {"value_n": float(len(orders))}
    diagnosis = ""
    starts = [np.array(start) for start in STARTS]
    for penaliser in PENALISERS:
        minimum = maximise(gamma_gamma.likelihood, scaled, _guess, starts, penaliser)
        p, q, v = minimum.params.tolist()
        mean = p * v / (q - 1) if q > 1 else np.inf
        if minimum.verdict == "exploding":
            problem = f"Gamma-Gamma's parameters explode: p = {p:.3g}, q = {q:.3g}"
        elif minimum.verdict not in ("converged", "boundary"):
            problem = f"Gamma-Gamma: {minimum.verdict}"
        elif q <= 1:
            problem = f"Gamma-Gamma has q = {q:.3g} <= 1: order values so unequal have no mean"
            diagnosis = diagnosis or problem
            break
        elif not 1 / PLAUSIBLE <= mean <= PLAUSIBLE:
            problem = f"Gamma-Gamma's mean order is {mean:.3g} times the actual one"
        else:
            detail |= {
                "value_penaliser": penaliser,
                "value_log_likelihood": -len(orders)
                * (minimum.loss - penaliser * float(np.sum(minimum.params**2)) + float(np.log(unit))),
            }
            verdict = f"; order value with penaliser {penaliser:g} ({diagnosis})" if diagnosis else ""
            return "gamma_gamma", {"p": p, "q": q, "v": v * unit}, verdict, detail
        diagnosis = diagnosis or problem
    params = {"mean": unit, "k": credibility(*scaled.means)}
    return "shrinkage", params, f"; order value by shrinkage ({diagnosis})", detail


def _guess(part: Orders) -> Floats | None:
    return lifetimes_guess.guess("gamma_gamma", part.means, np.ones(len(part)))


def credibility(count: Floats, mean: Floats) -> float:
    """k of (n x + k m) / (n + k): variance within customers over variance between them (Bühlmann, 1967).

    From E(x - m)^2 = between + within / n, by least squares over customers; kept within [0.1, 100]. Where all
    have as many orders the two cannot be told apart, and own and common mean get the same weight.
    """
    if np.ptp(count) == 0:
        return float(count[0])
    squared = (mean - np.sum(count * mean) / count.sum()) ** 2
    inverse = 1 / count - (1 / count).mean()
    within = float(np.sum(inverse * squared) / np.sum(inverse**2))
    between = float(squared.mean()) - within * float((1 / count).mean())
    return float(np.clip(within / between, 0.1, 100.0)) if between > 0 else 100.0


def frequency_value_correlation(orders: Orders) -> float:
    """Correlation of repeat purchases and mean order value among repeat buyers; 0 where either does not vary."""
    among = np.where(orders.repeats > 0, orders.sizes, 0.0)
    customers = float(among.sum())
    if customers < 2:
        return 0.0
    _, means = orders.means
    by_group = np.where(among > 0, orders.sums(means), 0.0)
    mean = float(by_group.sum()) / customers
    away = orders.repeats - float(np.sum(among * orders.repeats)) / customers
    squares = float(np.sum(np.where(among > 0, orders.sums((means - mean) ** 2), 0.0)))
    spread = float(np.sum(among * away**2))
    if spread == 0 or squares <= customers * (1e-12 * mean) ** 2:  # rounding
        return 0.0
    return float(np.sum(away * (by_group - among * mean))) / float(np.sqrt(spread * squares))
