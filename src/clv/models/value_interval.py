"""How sure a forecast of value is: one customer's by how far others like it were off, the total by its level."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TAIL = 0.1
QUANTILE_Z = 1.2816  # of the normal distribution, for the same 80 %
MINIMUM_ROWS_PER_BIN = 30
# Log error of a total over rolling origins of real order histories (docs/method.md): no model knows next year's demand.
LEVEL_SD = 0.12


@dataclass(frozen=True)
class Interval:
    """80 % interval by predicted decile: what customers of that decile realised, over what was predicted for them.

    Ratio-conformal by bins of the prediction (Mondrian; Vovk, Lindsay, Nouretdinov & Gammerman 2003): additive
    residuals tie at zero where most customers buy nothing, ratios by decile do not. The forecasts must not have seen
    the customers' outcomes: out of fold by customer.
    """

    edges: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def fit(cls, predicted: Floats, realised: Floats) -> Interval:
        """From forecasts and outcomes, one per row, both before cost to serve."""
        bins = int(np.clip(len(predicted) // MINIMUM_ROWS_PER_BIN, 1, 10))
        edges = np.unique(np.quantile(predicted, np.linspace(0, 1, bins + 1)[1:-1]))
        index = np.searchsorted(edges, predicted, side="right")
        ratio = np.maximum(realised, 0) / np.maximum(predicted, 1e-9)
        groups = [ratio[index == b] for b in range(len(edges) + 1)]
        quantiles = [_conformal(group if len(group) else ratio) for group in groups]
        return cls(tuple(edges.tolist()), tuple(q[0] for q in quantiles), tuple(q[1] for q in quantiles))

    def around(self, predicted: Floats) -> tuple[Floats, Floats]:
        """Lower and upper end, one per forecast, which lies between them."""
        index = np.searchsorted(np.array(self.edges), predicted, side="right")
        low = predicted * np.array(self.low)[index]
        high = predicted * np.array(self.high)[index]
        return np.minimum(low, predicted), np.maximum(high, predicted)


def total_log_sd(predicted: Floats, realised: Floats, level_forecasts: list[float]) -> float:
    """Standard deviation of log(realised total / forecast total) of as many customers as there are rows.

    What single customers leave to chance (independent of each other), and the error of the level they share: at least
    LEVEL_SD, more where the `level_forecasts` of the total disagree more.
    """
    chance = math.sqrt(math.fsum(np.square(realised - predicted))) / max(math.fsum(predicted), 1e-9)
    logs = np.log(level_forecasts)
    level = float(np.std(logs, ddof=1)) if len(logs) > 1 else 0.0
    return math.hypot(chance, max(LEVEL_SD, level))


def _conformal(ratio: Floats) -> tuple[float, float]:
    """Order statistics between which a further ratio lies with at least 80 % (of n + 1 places), a tenth on each side.

    Where at least a tenth brought nothing the lower end is 0, below which nobody is, and a fifth lie above.
    """
    ordered, places = np.sort(ratio), len(ratio) + 1
    low = max(math.floor(TAIL * places) - 1, 0)
    tails = 1 if ordered[low] > 0 else 2
    high = min(math.ceil((1 - TAIL * tails) * places) - 1, len(ratio) - 1)
    return float(ordered[low]), float(ordered[high])
