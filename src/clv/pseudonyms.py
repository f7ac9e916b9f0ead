"""Keyed pseudonyms: what stands for a customer where its id must not go."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable
from functools import cache
from hashlib import sha256

VARIABLE = "CLV_PSEUDONYM_KEY"
LENGTH = 12  # hexadecimal digits: among a million customers two share one with a chance of 0.2 %


def pseudonyms(company: str, customer_ids: Iterable[object]) -> list[str]:
    """One pseudonym per id, in their order: HMAC-SHA-256 of company and id under the key, 12 hexadecimal digits.

    The key comes from the environment's CLV_PSEUDONYM_KEY: whoever has it can find the customer behind a pseudonym
    by taking those of all customers. Without it a key is drawn for this process and forgotten with it, so that
    pseudonyms agree within a training and nowhere else.
    """
    key = os.environ.get(VARIABLE, "").encode() or _drawn()
    return [
        hmac.new(key, f"{company}\0{customer_id}".encode(), sha256).hexdigest()[:LENGTH]
        for customer_id in customer_ids
    ]


@cache
def _drawn() -> bytes:
    return secrets.token_bytes(32)
