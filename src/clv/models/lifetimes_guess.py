"""Where to look for the likeliest parameters: the answers of `lifetimes`' fitters on a portion of the customers.

The one adapter over `lifetimes`: only its fitters are used, only to fit, and what they say is a start. Its
Pareto/NBD is not asked: from 200 purchases on, where alpha and beta lie far apart, its likelihood is NaN.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FITTERS = {
    "bgnbd": "BetaGeoFitter",
    "mbgnbd": "ModifiedBetaGeoFitter",
    "gamma_gamma": "GammaGammaFitter",
}
ENOUGH = {"tol": 1e-3, "maxiter": 50}  # of the gradient; only where there is no answer a search takes longer


def guess(model: str, columns: tuple[Floats, ...], weights: Floats) -> Floats | None:
    """Parameters of the model by `lifetimes`, in its order; None where it has none, fails, or is not there."""
    if model not in FITTERS:
        return None
    try:
        with lifetimes() as package:
            fitter = getattr(package, FITTERS[model])()
            fitter.fit(*columns, weights=weights, **ENOUGH)
    # its ConvergenceError and numpy's LinAlgError are ValueErrors
    except (ImportError, ValueError, ArithmeticError):
        return None
    params = np.asarray(fitter.params_, dtype=np.float64)
    return params if np.isfinite(params).all() and params.min() > 0 else None


@contextlib.contextmanager
def lifetimes() -> Iterator[Any]:
    """`lifetimes`, imported late and kept from what it does to its surroundings.

    On import and in fits it changes the process's warning filters and a pandas option, it prints failed
    optimisations, and its optimiser's line search steps through overflow.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import pandas as pd

        option = pd.get_option("mode.chained_assignment")
        import lifetimes

        pd.set_option("mode.chained_assignment", option)
        yield lifetimes
