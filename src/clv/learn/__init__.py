"""Fitted models with their evidence: each is tested on a later period than it was trained on, and gated.

Where the gate refuses a model, the fallback stands in its place, with the reason: value of the last period, the
payment record, segment means.
"""

from clv.learn.learned import Learned
from clv.learn.payment import PaymentTrial, learn_payment_delay, try_payment_delay
from clv.learn.prospect import ProspectTrial, learn_prospect_value, try_prospect_value
from clv.learn.prospect_past import ProspectRecord, prospect_record
from clv.learn.tuning import Tuned, tune_lifetime_value
from clv.learn.value import (
    ValueForecasts,
    ValueTrial,
    forecast_lifetime_value,
    horizon_of,
    learn_lifetime_value,
)

__all__ = [
    "Learned",
    "PaymentTrial",
    "ProspectRecord",
    "ProspectTrial",
    "Tuned",
    "ValueForecasts",
    "ValueTrial",
    "forecast_lifetime_value",
    "horizon_of",
    "learn_lifetime_value",
    "learn_payment_delay",
    "learn_prospect_value",
    "prospect_record",
    "try_payment_delay",
    "try_prospect_value",
    "tune_lifetime_value",
]
