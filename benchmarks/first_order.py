"""The step at the first order on rolling origins, and whether a blend of both models would rank better.

    python benchmarks/first_order.py --config configs/demo.yaml --as-of 2026-01-01 --origins 6

At each origin both models are trained on what was known before it: the prospect model a conversion window earlier,
the lifetime-value model at the origin. Customers are those whose first order fell between the two and whose horizon
has ended by --as-of.
"""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd

from clv import first_order, ingest, learn, program
from clv.config import load
from clv.contribution import price_lines
from clv.errors import ModelError
from clv.learn import first_order as learn_first_order
from clv.learn.prospect_past import past_model
from clv.program import AsOf, ConfigPath, Overrides
from clv.warehouse import Engine, workspace_of


def pairs_of_origin(db: Engine, origin: date, known_at: date, config, basis: str) -> pd.DataFrame:
    """learn.first_order.pairs of those who first ordered in the conversion window before `origin`."""
    made = learn.forecast_lifetime_value(db, origin, config, basis=basis, horizon=learn.horizon_of(config))
    realised = made.judged(db, config).realised
    of_customers = learn_first_order.value_forecasts(
        db, origin, made.frame["customer_id"], made.forecasts["model"].value, realised
    )
    past = past_model(db, origin - timedelta(days=config.prospect.conversion_days), config)
    if past is None:
        raise ModelError(f"too few prospects before {origin}")
    return learn_first_order.pairs(db, known_at, config, past, of_customers).assign(origin=origin)


def main(config: ConfigPath, as_of: AsOf, origins: int = 6, set_: Overrides = None) -> None:
    settings, day = load(config, set_ or ()), as_of.date()
    found = []
    with workspace_of(settings) as db:
        ingest.load(db, settings, day)
        basis = price_lines(db, settings).basis
        last = learn.horizon_of(settings).before(day)
        for place in range(origins):
            origin = last - timedelta(days=settings.prospect.conversion_days * place)
            try:
                found.append(pairs_of_origin(db, origin, day, settings, basis))
            except ModelError as error:
                print(f"{origin}: {error}")
                break
            print(f"{origin}: {len(found[-1])} customers")
    everyone = pd.concat(found, ignore_index=True)
    with pd.option_context("display.width", 160, "display.max_columns", 20, "display.precision", 3):
        print(first_order.step(everyone).to_string(index=False))
        print(first_order.blends(everyone, settings.seed).to_string(index=False))


if __name__ == "__main__":
    program.run(main)
