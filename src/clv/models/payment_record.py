"""The payment record in the place of a payment model, where the data cannot support one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from clv.models.payment_delay import PaymentDelay

_FILE = "payment_record.json"


@dataclass(frozen=True)
class PaymentRecord:
    """Grades by last year's share paid within terms; `why` says what a model was missing. Nothing is learned."""

    why: str

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """`on_time_share_ratio` (0-1) of each row, as receivables.payment_record gives it."""
        return frame[["on_time_share_ratio"]]

    def to_files(self) -> dict[str, str]:
        return {_FILE: json.dumps({"why": self.why}, ensure_ascii=False)}


def read_payment_model(files: Mapping[str, str]) -> PaymentDelay | PaymentRecord:
    """The model that `to_files` of either wrote."""
    if _FILE in files:
        return PaymentRecord(json.loads(files[_FILE])["why"])
    return PaymentDelay.from_files(files)
