"""The figures logged beside a model: how well it is calibrated, what its ranking captures, what drives it.

Each function returns a matplotlib `Figure` made without pyplot, so nothing is global and nothing needs closing.
Rows with equal predictions share the mean of what they realised, so the order of the rows never shows.
"""

from clv.plots.drivers import Waterfall, shap_bar, shap_dependence, shap_summary, shap_waterfalls
from clv.plots.forecasts import calibration, course, decile_bars, gains, lorenz, origins, tier_bars
from clv.plots.pyramids import pyramid
from clv.plots.quadrants import quadrants

__all__ = [
    "Waterfall",
    "calibration",
    "course",
    "decile_bars",
    "gains",
    "lorenz",
    "origins",
    "pyramid",
    "quadrants",
    "shap_bar",
    "shap_dependence",
    "shap_summary",
    "shap_waterfalls",
    "tier_bars",
]
