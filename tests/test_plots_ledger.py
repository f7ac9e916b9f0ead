"""What the pictures of receivables show, read back from the figure."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clv.plots import ledger
from clv.portfolio import BUCKETS


def drawn(figure: Figure) -> list[str]:
    """Texts of the figure once it is drawn, warnings being errors."""
    figure.savefig(io.BytesIO(), format="png")
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_ageing_names_share_and_count_of_every_bucket_and_survives_an_empty_ledger() -> None:
    table = pd.DataFrame(
        {
            "days_beyond_terms": BUCKETS,
            "invoices": [1200, 1, 0, 0, 3],
            "amount_open": [7500.0, 500.0, 0.0, 0.0, 2000.0],
            "amount_ratio": [0.75, 0.05, 0.0, 0.0, 0.2],
        }
    )
    texts = drawn(ledger.ageing(table, "EUR"))
    assert texts == [
        "75.0%, 1,200 invoices",
        "5.0%, 1 invoice",
        "0.0%, 0 invoices",
        "0.0%, 0 invoices",
        "20.0%, 3 invoices",
    ]
    empty = table.assign(invoices=0, amount_open=0.0, amount_ratio=np.nan)
    assert drawn(ledger.ageing(empty, "EUR"))[0] == "0 invoices"


def test_roll_rates_write_a_share_into_every_cell_that_has_one() -> None:
    names = [*BUCKETS, "paid"]
    table = pd.DataFrame(
        [(a, b, 0.0, np.nan) for a in BUCKETS for b in names],
        columns=["from_bucket", "to_bucket", "amount", "amount_ratio"],
    )
    table.loc[(table.from_bucket == "1–30") & (table.to_bucket == "31–60"), "amount_ratio"] = 0.4
    table.loc[(table.from_bucket == "1–30") & (table.to_bucket == "paid"), "amount_ratio"] = 0.5997
    table.loc[(table.from_bucket == "1–30") & (table.to_bucket == "61–90"), "amount_ratio"] = 0.0003
    figure = ledger.roll_rates(table)
    assert sorted(drawn(figure)) == ["40.0%", "60.0%", "<0.1%"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names


def test_months_without_a_figure_are_gaps_and_not_zeros() -> None:
    months = pd.Series(pd.date_range("2025-01-01", periods=4, freq="MS"))
    table = pd.DataFrame(
        {
            "month": months,
            "dso_days": [40.0, 41.0, np.nan, 44.0],
            "mean_days_beyond_terms": [-3.0, 2.0, np.nan, np.nan],
        }
    )
    figure = ledger.outstanding(table)
    drawn(figure)
    line = figure.axes[1].lines[0].get_ydata()
    np.testing.assert_array_equal(line, [-3.0, 2.0, np.nan, np.nan])
    rolls = pd.DataFrame({"month": months, "not due to 1–30": [0.2, np.nan, 0.1, 0.3]})
    drawn(ledger.roll_rates_by_month(rolls))


def test_reasons_stand_in_plain_words_with_money_and_days_and_none_is_no_error() -> None:
    table = pd.DataFrame(
        {"reason": ["cash_shortage"], "payments": [12], "amount": [1500.4], "mean_days_beyond_terms": [28.4]}
    )
    figure = ledger.delay_reasons(table, "EUR")
    assert drawn(figure) == ["1,500 EUR, 28 days"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["cash shortage"]
    drawn(ledger.delay_reasons(table.head(0), "EUR"))


def test_calibration_by_group_shows_the_largest_groups_with_their_sizes() -> None:
    table = pd.DataFrame(
        {
            "segment": [f"S{i:02d}" for i in range(15)],
            "rows": np.arange(15) + 1,
            "mean_predicted": 0.1,
            "mean_realised": 0.12,
            "error": -0.02,
            "standard_error": 0.03,
        }
    )
    figure = ledger.calibration_by(table, title="Late payment")
    drawn(figure)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == [f"S{i:02d}\n{i + 1}" for i in range(3, 15)]
