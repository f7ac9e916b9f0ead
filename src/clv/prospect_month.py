"""A month's prospects as a whole: drift, disparity and who is worked, as tables and as rows of `month_facts`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clv import disparity, drift

if TYPE_CHECKING:
    from clv.composite import Grading
    from clv.config import Config
    from clv.grades import Graded

Fact = tuple[str, float | None, str]


@dataclass(frozen=True)
class ProspectMonth:
    """`facts`: rows of `month_facts` (name, value, detail); `tables`: by name, none of a person, none of them empty."""

    facts: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]


def prospect_month(
    graded: Graded, grading: Grading, config: Config, of_training: Sequence[Fact]
) -> ProspectMonth:
    """What is to be said of the month's prospects; `of_training` is what their models' training found.

    Tables: `drift` (drift.Population.against), `disparity` (disparity.of_month), `worked`: tier, is_worked, prospects,
    share_ratio of the tier.
    """
    frame = graded.frame
    tables = {
        "drift": grading.prospects.against(frame),
        "disparity": disparity.of_month(frame, config.fairness.groups, graded.key),
        "worked": _worked(frame, config.fairness.worked_attribute, graded.order),
    }
    facts: list[Fact] = [*of_training, *_moved(tables["drift"])]
    if len(frame):
        what = f"Prospects in {' or '.join(graded.key)}"
        facts += disparity.facts(tables["disparity"], "prospect_disparity", "key_ratio", what)
    rows = pd.DataFrame(facts, columns=["name", "value", "detail"])
    return ProspectMonth(rows, {name: table for name, table in tables.items() if len(table)})


def _moved(found: pd.DataFrame) -> Iterator[Fact]:
    if len(found):
        yield "prospect_drift_psi", float(found["psi"].max()), drift.said(found)


def _worked(frame: pd.DataFrame, attribute: str | None, order: Sequence[str]) -> pd.DataFrame:
    columns = ["tier", "is_worked", "prospects", "share_ratio"]
    if attribute is None or frame.empty:
        return pd.DataFrame(columns=columns)
    flag = frame[attribute].astype("object").map({True: "yes", False: "no"}).fillna(disparity.UNKNOWN)
    found = (
        frame.assign(is_worked=flag).groupby(["tier", "is_worked"]).size().rename("prospects").reset_index()
    )
    found["share_ratio"] = found["prospects"] / found.groupby("tier")["prospects"].transform("sum")
    place = np.array([list(order).index(tier) for tier in found["tier"]])
    return found.iloc[np.lexsort([found["is_worked"], place])].reset_index(drop=True)[columns]
