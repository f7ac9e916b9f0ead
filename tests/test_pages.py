"""The page of a back-test: whole, on its own, and true to the report."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clv import exhibits, pages, tiers
from clv.config import Config
from clv.evaluation import Forecast, over_origins, tier_report, value_report
from clv.exhibits import Judged

EVIL = "<script>alert('A & B')</script>"
CONFIG = Config.model_validate(
    {
        "company": "invented",
        "reporting_currency": "EUR",
        "sources": {"order_lines": {"path": "l.csv"}},
        "tiers": {"shares_ratio": {EVIL: 0.1, "重要客户 (A+)": 0.4, "small": 0.5}, "key": [EVIL]},
    }
)
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Elements(HTMLParser):
    """Elements in their order, with a check that they are closed as they were opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def _report(customers: int = 60) -> tuple[dict[str, Any], dict[str, Judged]]:
    """A report of two dates, one of them not judged, and the rows behind it."""
    rng = np.random.default_rng(3)
    realised = np.round(rng.gamma(0.5, 100, customers), 2)
    model = np.round(realised * rng.lognormal(0, 1, customers), 2)
    forecasts = {
        "model": Forecast(model, model * 0.5, model * 2),
        "last_period": Forecast(rng.permutation(realised)),
    }
    value = value_report(realised, forecasts, seed=1)
    sizes = tiers.counts(customers, CONFIG.tiers.shares_ratio)
    report: dict[str, Any] = {"as_of": "2026-01-01", "horizon_days": 90, "customers": customers}
    report |= dict.fromkeys(("payment_delay", "prospect_value", "groups", "truth"))
    report |= {"lifetime_value": value, "tiers": tier_report(realised, forecasts, sizes)}
    own = {name: report[name] for name in ("as_of", "customers", "lifetime_value")}
    missing = {
        "as_of": "2025-12-01",
        "customers": None,
        "lifetime_value": None,
        "why": {"lifetime_value": EVIL},
    }
    earlier = own | {"as_of": "2025-11-01"}
    report["origins"] = {"reports": [earlier, missing, own], "summary": over_origins([value, value], seed=1)}
    report["why"] = {"payment_delay": f"No invoices: {EVIL}"}
    course = pd.DataFrame(
        {
            "day": [7, 90],
            "date": pd.to_datetime(["2026-01-08", "2026-04-01"]),
            "realised_value": [10.0, realised.sum()],
            "model_value": [12.0, model.sum()],
            "btyd_value": [np.nan, np.nan],
            "realised_orders": [1.0, 30.0],
            "expected_orders": [np.nan, np.nan],
        }
    )
    values = {name: each.value for name, each in forecasts.items()}
    return report, {"lifetime-value": Judged(None, realised, values, course)}


@pytest.fixture(scope="module")
def made() -> tuple[dict[str, Any], str]:
    report, judged = _report()
    return report, pages.of_backtest(CONFIG, report, exhibits.of_backtest(report, judged, CONFIG))


def test_the_page_is_whole_and_needs_nothing_from_outside(made: tuple[dict[str, Any], str]) -> None:
    elements = Elements(made[1]).found
    assert {tag for tag, _ in elements} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "dl", "div", "dt", "dd", "span",
        "br", "small", "strong", "table", "thead", "tbody", "tr", "th", "td", "figure", "img", "figcaption",
        "details", "summary", "footer",
    }  # fmt: skip
    pictures = [attributes for tag, attributes in elements if tag == "img"]
    assert len(pictures) == 6
    for picture in pictures:
        assert (picture["src"] or "").startswith("data:image/png;base64,")
        assert picture["alt"]
    without = re.sub(r'src="data:[^"]*"', "", made[1])
    assert not re.search(r"https?:|//|url\(|@import|src=|href=", without)
    policies = [attributes["content"] for tag, attributes in elements if attributes.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert [a["content"] for _, a in elements if a.get("name") == "viewport"]


def test_what_comes_from_outside_is_text(made: tuple[dict[str, Any], str]) -> None:
    assert "<script" not in made[1]
    text = Elements(made[1]).text
    assert f"No invoices: {EVIL}" in text
    assert "重要客户 (A+)" in text


def test_the_page_says_what_the_report_says(made: tuple[dict[str, Any], str]) -> None:
    report, page = made
    text = Elements(page).text
    model = report["lifetime_value"]["model"]
    assert f"{model['normalised_gini']:.3f}" in text
    assert f"{model['normalised_gini_low']:.3f} to {model['normalised_gini_high']:.3f}" in text
    assert f"{model['total_realised']:,.0f}" in text
    assert f"{model['interval_coverage_top_20']:.1%}".replace("%", "\N{NO-BREAK SPACE}%") in text
    assert all(day in text for day in ("2025-11-01", "2025-12-01", "2026-01-01"))
    assert "The same on 3 dates" in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_the_same_report_is_the_same_page(made: tuple[dict[str, Any], str]) -> None:
    report, judged = _report()
    again = pages.of_backtest(CONFIG, report, exhibits.of_backtest(report, judged, CONFIG))
    assert again == made[1]


def test_where_nothing_could_be_judged_the_page_says_why_first() -> None:
    report: dict[str, Any] = {"as_of": "2026-01-01", "horizon_days": 90, "customers": None}
    parts = ("lifetime_value", "payment_delay", "prospect_value", "tiers", "groups", "truth")
    report |= dict.fromkeys(parts) | {"why": {"lifetime_value": "History too short."}}
    text = Elements(pages.of_backtest(CONFIG, report, exhibits.of_backtest(report, {}, CONFIG))).text
    assert text.index("History too short.") < text.index("How to read")
    assert text.count("History too short.") == 1


def test_a_test_without_anything_realised_has_no_pictures() -> None:
    nothing = Judged(None, np.zeros(3), {"model": np.ones(3)})
    shown = exhibits.of_test("lifetime-value", nothing, CONFIG)
    assert shown.figures == {}
    assert shown.tables == {}


def test_few_customers_make_pictures_too() -> None:
    for customers in (1, 2, 19):
        report, judged = _report(customers)
        page = pages.of_backtest(CONFIG, report, exhibits.of_backtest(report, judged, CONFIG))
        assert len([tag for tag, _ in Elements(page).found if tag == "img"]) == 6
