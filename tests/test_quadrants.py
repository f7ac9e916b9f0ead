"""Size × loyalty."""

from __future__ import annotations

import numpy as np
import pandas as pd

from clv.quadrants import quadrants
from clv.settings.grading import QuadrantSettings


def frame_of(**columns: object) -> pd.DataFrame:
    n = len(next(iter(columns.values())))  # type: ignore[arg-type]
    return pd.DataFrame({"customer_id": [f"c{i}" for i in range(n)]}).assign(**columns)


def test_large_is_the_first_fifth_and_loyal_stays_and_pays() -> None:
    frame = frame_of(
        contribution_margin=[100.0, 90, 80, 70, 60, 50, 40, 30, 20, 10],
        probability_active=[0.9, 0.4, 0.9, 0.4, *[0.9] * 6],
        late_payment_probability=[0.1, 0.1, 0.1, 0.1, 0.31, 0.3, *[np.nan] * 4],
        on_time_share_ratio=[np.nan] * 6 + [0.6, 0.4, np.nan, np.nan],
    )
    assert quadrants(frame, QuadrantSettings()).tolist() == [
        "large_loyal", "large_disloyal", "small_loyal", "small_disloyal", "small_disloyal", "small_loyal",
        "small_loyal", "small_disloyal", "small_loyal", "small_loyal",
    ]  # fmt: skip


def test_what_nobody_knows_of_loyalty_is_null_and_names_are_free() -> None:
    frame = frame_of(contribution_margin=[5.0, 1.0], probability_active=[np.nan, 1.0])
    found = quadrants(frame, QuadrantSettings(names=("groß und treu", "groß", "klein und treu", "klein")))
    assert found.isna().tolist() == [True, False]
    assert found[1] == "klein und treu"


def test_nobody_who_brings_nothing_is_large_and_without_margins_orders_decide() -> None:
    losing = frame_of(contribution_margin=[-5.0, -1.0, -3.0], probability_active=[1.0] * 3)
    assert set(quadrants(losing, QuadrantSettings())) == {"small_loyal"}
    unknown = frame_of(
        contribution_margin=[np.nan] * 3, order_amount=[1.0, 7.0, 2.0], probability_active=[1.0] * 3
    )
    assert quadrants(unknown, QuadrantSettings()).tolist() == ["small_loyal", "large_loyal", "small_loyal"]
