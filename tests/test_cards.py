"""The card of one customer: what it says of every kind of grade, on a month published by hand."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from clv import cards, month_facts, publish
from clv.cards import Card, wrapping
from clv.config import Config
from clv.errors import ConfigError
from clv.grades import WHY_MISSING
from clv.settings import languages
from clv.settings.grading import GateSettings

ROOT = Path(__file__).resolve().parents[1]
FIRST, SECOND = date(2026, 1, 1), date(2026, 2, 1)
HOSTILE = "[red]X[/red] \x1b[31m<b>*_`|\u202e\n# y"
# customer -> what of its grade is not as everybody's
CUSTOMERS: dict[str, dict[str, Any]] = {
    "best": {"tier": "important", "group_tier": "important", "account_group_id": "G1", "firmness_ratio": 1.0},
    "writ": {"tier_rule": "gate:write_off", "policy_tier": "important"},
    "late": {"tier_rule": "gate:late_payment", "policy_tier": "main", "late_payment_probability": 0.56},
    "loss": {"tier_rule": "gate:negative_contribution", "policy_tier": "main", "contribution_margin": -12.0},
    "owes": {"tier_rule": "gate:arrears", "policy_tier": "main"},
    "held": {"tier_rule": "gate:arrears", "policy_tier": "ordinary"},
    "warn": {"tier_rule": "grace:arrears"},
    "band": {"tier_rule": "band", "policy_tier": "small", "firmness_ratio": 0.55, "account_group_id": "G1"},
    "same": {"tier_rule": "band", "policy_tier": "ordinary", "firmness_ratio": 0.8},
    "hand": {"tier_rule": "override", "policy_tier": "small", "firmness_ratio": 1.0},
    "part": {"tier_rule": "provisional", "policy_tier": "important", "is_provisional": True, "coverage_ratio": 0.5},
    "wait": {"tier_rule": "unconfirmed", "policy_tier": "main"},
    "gone": {"tier": "inactive", "tier_rule": "inactive", "policy_tier": None, "composite_rank": None,
             "composite_percentile": None, "firmness_ratio": None},
    "none": {"composite_score": None, "composite_baseline": None},
    "new policy": {"tier_rule": "policy_reset"},
    "others": {"tier_rule": "eligible_rank", "policy_tier": "small"},
    HOSTILE: {},
}  # fmt: skip


def reason(customer: str, position: int, points: float, **values: Any) -> dict[str, Any]:
    content = {
        "own": 12.0,
        "unit": "days",
        "peer": 45.0,
        "peers": 83,
        "lower_ratio": 0.05,
        "higher_ratio": 0.93,
    }
    content |= {"criterion": "lifetime_value", "points": points} | values
    return {
        "customer_id": customer,
        "position": position,
        "direction": "for" if points > 0 else "against",
        "criterion": "lifetime_value",
        "concept": "still_active",
        "points": points,
        "template_id": "days_since_last_purchase.peers",
        "values": json.dumps(content),
        "fact": "Last order 12 days ago",
        "peer_fact": "similar customers: 45 days (93 % of them more)",
        "sentence": "Last order 12 days ago; similar customers: 45 days (93 % of them more). +6.1 points.",
    }


def rest(customer: str, position: int, points: float) -> dict[str, Any]:
    told = {
        "customer_id": customer,
        "position": position,
        "direction": "for",
        "concept": "other",
        "points": points,
    }
    values = json.dumps({"n": 2, "points": points})
    return told | {
        "template_id": "other",
        "values": values,
        "sentence": "2 smaller factors, together +0.0 points.",
    }


def month() -> dict[str, list[pd.DataFrame]]:
    n = len(CUSTOMERS)
    usual = {
        "value_source": "history", "value_basis": "contribution", "tier": "ordinary", "tier_rule": "rank",
        "policy_tier": "ordinary", "composite_score": 56.1, "composite_baseline": 50.0, "tier_change": "new",
        "firmness_ratio": 0.93, "coverage_ratio": 1.0, "is_provisional": False, "segment": "steel",
        "clv": 1234.5, "clv_low": 100.0, "clv_high": 2000.0, "probability_active": 0.97, "expected_orders": 4.25,
        "late_payment_probability": 0.05, "expected_days_late": 3.2, "amount_at_risk": 10.0,
        "on_time_share_ratio": 0.9, "mean_days_beyond_terms": -2.0, "main_delay_reason": "bank_error",
    }  # fmt: skip
    rows = []
    for i, (customer, own) in enumerate(CUSTOMERS.items()):
        rank = {"composite_rank": i + 1, "composite_percentile": (n - i - 1) / n}
        rows.append({"customer_id": customer} | usual | rank | own)
    prospect = {"value_source": "prospect", "tier": "hot", "policy_tier": "hot", "composite_rank": 1}
    prospect |= {"prospect_value": 900.0, "prospect_value_low": 0.0, "prospect_value_high": 1500.0}
    prospect |= {"prospect_valid_until": date(2026, 3, 2), "conversion_probability": 0.3, "clv": None}
    blank = dict.fromkeys(
        ("probability_active", "late_payment_probability", "on_time_share_ratio", "value_basis")
    )
    rows.append({"customer_id": "lead"} | usual | {"composite_percentile": 0.0} | prospect | blank)
    grades = pd.DataFrame(rows)
    scored = grades.loc[grades["composite_score"].notna(), "customer_id"]
    reasons = [
        row
        for customer in scored
        for row in (reason(customer, 1, 7.1), reason(customer, 2, -1.0, own=90.0), rest(customer, 3, 0.0))
    ]
    criteria = []
    for row in rows:
        is_lead, score = row["value_source"] == "prospect", row["composite_score"]
        criteria.append(
            {"customer_id": row["customer_id"], "criterion": "prospect" if is_lead else "lifetime_value",
             "value": row["clv"], "score": score, "percentile": 0.9, "weight": 1.0}
        )  # fmt: skip
        if not is_lead:
            why = WHY_MISSING["payment"]
            criteria.append(
                {"customer_id": row["customer_id"], "criterion": "payment", "weight": 0.0, "why": why}
            )
    decision = {"by": "Eva", "until": "2026-07-20", "reason": "Frame contract [b]signed[/b]."}
    facts = {
        "name": [month_facts.override_name("hand", "ordinary")],
        "value": [None],
        "detail": [json.dumps(decision)],
    }
    outlook = [
        {"customer_id": "best", "horizon_months": months, "clv": money, "is_extrapolation": months > 12}
        for months, money in ((3, 300.0), (12, 1234.5), (120, 9000.0))
    ]
    change = {
        "customer_id": "best",
        "block": "facts",
        "points": 3.5,
        "sentence": "Two orders more. +3.5 points.",
    }
    path = {"customer_id": "best", "lever": "orders", "amount": 2.0, "sentence": "Two more orders a quarter."}
    counts = grades.groupby(["value_source", "tier"]).size().rename("customers").reset_index()
    return {
        "tier_summary": [counts],
        "grades": [grades],
        "criteria": [pd.DataFrame(criteria)],
        "reasons": [pd.DataFrame(reasons)],
        "value_outlook": [pd.DataFrame(outlook)],
        "changes": [pd.DataFrame([change])],
        "paths": [pd.DataFrame([path])],
        "month_facts": [pd.DataFrame(facts)],
    }


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A company with two months published, in the second of which the best has fallen."""
    folder = tmp_path_factory.mktemp("cards")
    customers = pd.DataFrame({"customer_id": ["best", HOSTILE], "name": ["Müller & Söhne", HOSTILE]})
    customers.assign(industry="steel").to_parquet(folder / "customers.parquet")
    config = Config.model_validate(
        {
            "company": "tiny",
            "reporting_currency": "EUR",
            "sources": {
                "order_lines": {"path": "lines.csv"},
                "customers": {"path": str(folder / "customers.parquet")},
            },
            "attributes": {"industry": {"type": "category", "known_at": "first_contact"}},
            "segment": ["industry"],
            "tiers": {"confirmation_runs": 3},
            "warehouse": {"path": str(folder / "tiny.duckdb")},
            "engine": {"threads": 1},
        }
    )
    for day in (FIRST, SECOND):
        tables = month()
        if day == FIRST:  # nothing came before
            del tables["changes"]
        if day == SECOND:
            fell = {"tier": "main", "previous_tier": "important", "tier_change": "down"}
            is_best = tables["grades"][0]["customer_id"] == "best"
            for name, value in fell.items():
                tables["grades"][0].loc[is_best, name] = value
            tables["tier_summary"][0].loc[tables["tier_summary"][0]["tier"] == "important", "tier"] = "main"
        with publish.month(config, day) as held:
            publish.publish(config, held, tables, expected_counts={}, mlflow_run_id=None, why={})
    return config


def card_of(config: Config, customer: str, as_of: date = FIRST, language: str = "en") -> Card:
    settings = config.model_copy(update={"language": language})
    return cards.card(cards.read_facts(settings, as_of, customer), settings)


def printed(card: Card, width: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width, highlight=False, markup=False, emoji=False).print(cards.as_table(card))
    return text.getvalue().splitlines()


@pytest.mark.parametrize(
    ("customer", "says"),
    [
        ("best", "Tier by rank."),
        (
            "writ",
            "By its score it would be important, but it is kept below the key tiers: an invoice written off in the "
            "last 24 months. This ends 24 months after it.",
        ),
        ("late", "56 % likely to pay over 30 days late (shuts at 50 %). This ends below 40 %."),
        ("loss", "it cost more in the last 12 months than it brought (−12 EUR). This ends"),
        ("owes", "is over 30 days overdue (shuts above 30 %). This ends at 24 % or less."),
        (
            "held",
            "It would have kept a key tier, but it is kept below them: too much of what is open is over 30 days",
        ),
        (
            "warn",
            "Key for this month still: too much of what is open is over 30 days overdue (shuts above 30 %). Unless "
            "that ends by next month, it falls below the key tiers.",
        ),
        (
            "band",
            "by rank alone it would be small, but last month's tier is kept within ±20 % of the edge's rank.",
        ),
        ("same", "Tier by rank."),
        ("hand", "Set by hand until 2026-07-20 by Eva: Frame contract [b]signed[/b]. By rank alone: small."),
        (
            "part",
            "Provisional: 50 % of the weight is measured, the first tier asks for 60 %. By rank alone: important.",
        ),
        ("wait", "By rank alone: main. The move waits until it has been due 3 months in a row."),
        ("gone", "Inactive: no order in the last 24 months and no open balance."),
        ("new policy", "the rules of the tiers are new, so last month's tier does not count."),
        ("others", "Tier by rank among those who may have it"),
    ],
)
def test_the_rule_that_decided_a_tier_is_told(config: Config, customer: str, says: str) -> None:
    assert says in card_of(config, customer).notes[0]


@pytest.mark.parametrize("language", languages.built_in())
def test_every_rule_and_gate_has_words(config: Config, language: str) -> None:
    texts = languages.content(language)["card"]
    assert set(texts["gates"]) == set(texts["opens"])
    assert set(texts["gates"]) == {
        *(GateSettings.model_fields.keys() & {"negative_contribution", "blocked"}),
        *("late_payment", "arrears", "insolvency", "write_off"),
    }
    assert set(WHY_MISSING) <= set(texts["missing"])
    for customer in [*CUSTOMERS, "lead"]:
        card = card_of(config, customer, language=language)
        text = cards.as_markdown(card)
        assert "{" not in text.replace("\\{", "")
        assert "nan" not in text.split()
        assert "None" not in text


def test_a_gated_customer_keeps_the_reasons_of_its_score(config: Config) -> None:
    """The gate is told beside them: they add up to the score, which the gate does not touch."""
    card = card_of(config, "writ")
    assert [one.is_for for one in card.reasons] == [True, False]
    assert card.total == "50.0 (a typical customer) +6.1 points = 56.1"


def test_a_group_says_how_its_tier_came_about(config: Config) -> None:
    found = card_of(config, "best").notes[-1]
    assert found == (
        "Account group G1: important. Its 2 customers are graded as one: their money together, their risk by what each "
        "owes."
    )


@pytest.mark.parametrize(
    ("customer", "standing"),
    [
        ("best", "new this month, firm: 99 % likely to stay next month"),
        ("band", "new this month, on the edge: 55 % likely to stay next month"),
        ("same", "new this month, firm: 80 % likely to stay next month"),
        ("hand", "new this month"),
        ("gone", "new this month"),
    ],
)
def test_how_firm_a_tier_is_stands_in_words(config: Config, customer: str, standing: str) -> None:
    assert card_of(config, customer).standing == standing


def test_figures_standards_and_reasons_stand_on_the_card(config: Config) -> None:
    card = card_of(config, "best")
    assert card.title == "Müller & Söhne"
    assert card.about == "best · customer · steel · tiny · 2026-01-01"
    assert dict(card.figures) == {
        "Value expected, next 12 months": "1,234 EUR (80 % likely between 100 EUR and 2,000 EUR)",
        "Other horizons": "3 months 300 EUR · 120 months 9,000 EUR (extrapolated)",
        "Still buying": "97 % likely, 4.2 orders expected in 12 months",
        "Payment to come": "5 % likely over 30 days late, 3 days late expected, 10 EUR at risk",
        "Paid in the last 12 months": "90 % of the amount on time, 2 days before due on average, mostly because of "
        "bank error",
    }
    assert card.standards[0] == ("Standard", "Figure", "Score", "Weight", "Ahead of", "Note")
    assert card.standards[1] == ("Future value", "1,234 EUR", "56.1", "100 %", "90 %", "")
    assert card.standards[2] == (
        "Payment",
        "–",
        "–",
        "–",
        "–",
        "no invoice of the last 12 months and nothing open",
    )
    assert card.reasons[0].points == "+7.1 points"
    assert card.reasons[0].fact == "Last order 12 days ago"
    assert card.rest is not None
    assert dict(card.sections) == {
        "Way to the next tier": ("Two more orders a quarter.",),
        "Tiers so far": ("important since 2026-01-01",),
    }
    changed = dict(card_of(config, "best", SECOND).sections)["What changed since last month"]
    assert changed == ("Two orders more. +3.5 points.",)


def test_a_prospect_has_its_own_figures_and_is_held_against_prospects(config: Config) -> None:
    card = card_of(config, "lead")
    assert "prospect" in card.about
    assert dict(card.figures) == {
        "Value expected": "900 EUR (80 % likely between 0 EUR and 1,500 EUR), good until 2026-03-02",
        "First order within 90 days": "30 % likely",
    }
    assert card.total is not None
    assert "a typical prospect" in card.total
    assert card.reasons[0].beside.startswith("similar prospects: 45 days")


def test_the_newest_month_on_or_before_the_day_is_told_and_nothing_later(config: Config) -> None:
    assert card_of(config, "best", date(2026, 1, 31)).sections[-1][1] == ("important since 2026-01-01",)
    later = card_of(config, "best", date(2030, 1, 1))
    assert later.about.endswith("2026-02-01")
    assert later.standing.startswith("down from important, ")
    assert later.sections[-1][1] == ("main since 2026-02-01", "important from 2026-01-01 to 2026-02-01")


def test_the_same_month_is_told_in_chinese(config: Config) -> None:
    card = card_of(config, "writ", language="zh")
    assert card.notes[0] == (
        "按得分应为 important，但暂不能列入重点等级：近 24 个月内有坏账核销。其后满 24 个月解除。"
    )
    assert (
        card.reasons[0].sentence
        == "上次下单在 12 天前；同类客户：45 天（其中 93% 更高）。+7.1 分（未来价值）。"
    )
    assert card.total == "50.0（典型客户） +6.1 分 = 56.1"
    gone = card_of(config, "gone", language="zh")
    assert gone.tier == "不活跃"


def test_who_is_not_there_is_refused_with_who_may_have_been_meant(config: Config) -> None:
    with pytest.raises(ConfigError, match="found 'bets'; near it are 'best'") as refused:
        cards.read_facts(config, FIRST, "bets")
    assert refused.value.exit_code == 2
    with pytest.raises(ConfigError, match="ids look like 'best'"):
        cards.read_facts(config, FIRST, "Zürcher Kantonalverwaltung")


def test_where_nothing_is_published_it_says_so(config: Config, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"on or before 2025-12-31 .* found none\. Grade one first: score\.py"
    ):
        cards.read_facts(config, date(2025, 12, 31), "best")
    nowhere = config.model_copy(
        update={"warehouse": config.warehouse.model_copy(update={"path": str(tmp_path / "x.duckdb")})}
    )
    with pytest.raises(ConfigError, match="found no warehouse file"):
        cards.read_facts(nowhere, FIRST, "best")


def test_the_program_prints_cards_and_refuses_who_is_not_there(config: Config, tmp_path: Path) -> None:
    settings = tmp_path / "tiny.yaml"
    settings.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            str(ROOT / "pipelines" / "explain.py"),
            "--config",
            str(settings),
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    told = run("--as-of", "2026-01-15", "--customer", "best", "--customer", "writ", "--set", "language=zh")
    assert told.returncode == 0, told.stderr
    assert "Müller & Söhne" in told.stdout
    assert "同类客户：45 天" in told.stdout
    unknown = run("--as-of", "2026-01-15", "--customer", "bets")
    assert unknown.returncode == 2
    assert "near it are 'best'" in unknown.stderr
    assert unknown.stdout == ""
    nothing = run("--as-of", "2025-01-15", "--customer", "best")
    assert nothing.returncode == 2
    assert "Grade one first" in nothing.stderr
    page = tmp_path / "page.md"
    written = run("--as-of", "2026-01-15", "--customer", "best", "--markdown", str(page))
    assert written.returncode == 0, written.stderr
    assert page.read_text(encoding="utf-8") == cards.as_markdown(card_of(config, "best"))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("language", languages.built_in())
def test_a_card_fits_the_terminal(config: Config, width: int, language: str) -> None:
    for customer in [*CUSTOMERS, "lead"]:
        lines = printed(card_of(config, customer, language=language), width)
        assert all(cell_len(line) <= width for line in lines)
        assert not any("…" in line for line in lines)


def test_what_data_hold_is_text_on_the_terminal_and_in_markdown(config: Config) -> None:
    card = card_of(config, HOSTILE)
    text = "\n".join(printed(card, 120))
    assert "[red]X[/red] " in text
    assert not set("\x1b\u202e\r") & set(text)
    page = cards.as_markdown(card)
    assert "\\[red\\]X\\[/red\\]" in page
    assert "\\<b\\>\\*\\_\\`\\|" in page
    assert not set("\x1b\u202e") & set(page)
    assert [line for line in page.splitlines() if line.startswith("#")] == page.splitlines()[:1]


def test_a_card_is_the_same_text_every_time(config: Config) -> None:
    one, other = (cards.as_markdown(card_of(config, "best")) for _ in range(2))
    assert one == other
    assert np.all([line == line.rstrip() or line.endswith("  ") for line in one.splitlines()])


@given(
    st.text(st.sampled_from("ab 12,.%−+（近个月，。；）欧元客户"), max_size=60),
    st.integers(8, 40),
)
def test_lines_of_chinese_break_between_characters_and_lose_nothing(text: str, width: int) -> None:
    found = wrapping.lines(text, width)
    assert "".join("".join(found).split()) == "".join(text.split())
    for line in found[1:]:
        assert not line.startswith(tuple("，。；）")) or cell_len(line) > width or not line.strip()


def test_a_figure_stays_with_what_it_counts() -> None:
    text = "按得分应为 important，但暂不能列入重点等级：近 24 个月内有坏账核销。"
    assert wrapping.lines(text, 30) == [
        "按得分应为 important，但暂不能",
        "列入重点等级：近 24 个月内有坏",
        "账核销。",
    ]
    for width in range(10, 60):
        for line in wrapping.lines(text, width):
            assert not line.endswith("24")
            assert cell_len(line) <= max(width, 12)
