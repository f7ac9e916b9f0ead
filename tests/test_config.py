"""Settings: what is refused, and that the refusal names the key and the nearest known one."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from clv.config import Config, load
from clv.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
SMALLEST: dict[str, Any] = {
    "company": "shop",
    "reporting_currency": "EUR",
    "sources": {"order_lines": {"path": "lines.csv"}},
}
CUSTOMERS = {"sources": {"order_lines": {"path": "l.csv"}, "customers": {"path": "c.csv"}}}
CATEGORY = {"type": "category", "known_at": "first_contact"}


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(**changes: Any) -> Path:
        path = tmp_path / "shop.yaml"
        path.write_text(yaml.safe_dump(SMALLEST | changes), encoding="utf-8")
        return path

    return save


@pytest.mark.parametrize("name", ["demo", "cdnow"])
def test_the_examples_are_valid_and_named_like_their_company(name: str) -> None:
    config = load(CONFIGS / f"{name}.yaml")
    assert config.company == name
    assert len(config.example_months) == 3
    assert sum(config.composite.weights.values()) == pytest.approx(1)


def test_the_demo_states_the_defaults_it_shows() -> None:
    """Whoever copies the demo's lines changes nothing by it."""
    demo, plain = load(CONFIGS / "demo.yaml"), Config.model_validate(SMALLEST)
    for section in (
        "contract",
        "lifetime_value",
        "payment",
        "order_amount",
        "prospect",
        "composite",
        "tiers",
        "gates",
        "explain",
    ):
        assert getattr(demo, section) == getattr(plain, section)


def test_the_demo_keeps_what_sales_write_later_from_the_models() -> None:
    demo = load(CONFIGS / "demo.yaml")
    assert set(demo.attributes) - set(demo.known_at_first_contact) == {"sales_status"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"compny": "x"}, "unknown key 'compny' \\(did you mean 'company'"),
        ({"tiers": {"band": 0.1}}, "unknown key 'tiers.band' \\(did you mean 'band_ratio'"),
        ({"sources": {"order_lines": {"pth": "x"}}}, "did you mean 'path'"),
        ({"sources": {"order_lines": {"path": "x", "table": "y"}}}, "exactly one of path, table, query"),
        ({"sources": {"order_lines": {"path": "x"}, "invoises": {"path": "y"}}}, "did you mean 'invoices'"),
        ({"sources": {"customers": {"path": "x"}}}, "order_lines is required"),
        (
            {"sources": {"order_lines": {"path": "x"}, "payments": {"path": "y"}}},
            "sources.payments: needs sources.invoices",
        ),
        (
            {"sources": {"order_lines": {"path": "x", "columns": {"order_dat": "d"}}}},
            "sources.order_lines.columns: unknown column 'order_dat' \\(did you mean 'order_date'",
        ),
        ({"attributes": {"industry": CATEGORY}}, "attributes: need sources.customers"),
        (CUSTOMERS | {"attributes": {"customer_age": CATEGORY}}, "is refused as a feature"),
        *(
            (CUSTOMERS | {"attributes": {name: CATEGORY}}, "is refused as a feature")
            for name in ("birthday", "birthdate", "ethnic_group", "religious", "is_married", "is_disabled")
        ),
        *(
            (
                {
                    "sources": CUSTOMERS["sources"]
                    | {"customers": {"path": "x", "columns": {"kind": column}}},
                    "attributes": {"kind": CATEGORY},
                },
                "attributes.kind: a person's age",
            )
            for column in ("gender", '"Sex"', "dateOfBirth", "cust_nationality")
        ),
        *(
            (
                CUSTOMERS | {"attributes": {name: {"type": kind, "known_at": "first_contact"}}},
                f"attributes.{name}: what is spent on a lead is the company's decision",
            )
            for name, kind in (
                ("campaign", "number"),
                ("lead_costs", "number"),
                ("budget_eur", "number"),
                ("got_voucher", "flag"),
            )
        ),
        (
            CUSTOMERS | {"attributes": {"industry": CATEGORY | {"effect": "raises"}}},
            "attributes.industry: effect: is of a number or a flag",
        ),
        (CUSTOMERS | {"attributes": {"sales_rep": CATEGORY}}, "is a core column already"),
        (CUSTOMERS | {"attributes": {"Lead Source": CATEGORY}}, "attributes.Lead Source"),
        ({"segment": ["industry"]}, "segment: 'industry' must be a declared attribute"),
        (
            {"composite": {"weights": {"lifetime_value": 0.5, "payment": 0.4}}},
            "weights sum to 0.90, expected 1.00",
        ),
        ({"composite": {"weights": {"prospect": 1.0}}}, "unknown criterion 'prospect'"),
        ({"tiers": {"shares_ratio": {"a": 0.5, "b": 0.4}, "key": ["a"]}}, "shares_ratio sum to 0.9000"),
        ({"tiers": {"key": ["main"]}}, "key must be the highest tiers"),
        ({"tiers": {"shares_ratio": {"a": 0.5, "inactive": 0.5}, "key": ["a"]}}, "'inactive' is kept"),
        ({"reporting_currency": "euro"}, "reporting_currency"),
        ({"company": "Shop 1"}, "company"),
        ({"warehouse": {"path": "data/clv.duckdb"}}, "rename it"),
        ({"contract": {"maximum_rejected_ratio": 5}}, "less than or equal to 1, found 5"),
        ({"lifetime_value": {"horizon_months": 0}}, "lifetime_value.horizon_months"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(saved: Any, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        load(saved(**changes))
    assert raised.value.exit_code == 2


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("company: x\nsources: {order_lines: {path: l.csv}}\n")
    with pytest.raises(ConfigError, match="reporting_currency is required and absent"):
        load(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("text", "says"), [("a: [", "not valid YAML"), ("- 1", "expected a mapping"), ("", "found NoneType")]
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        load(tmp_path / "x.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load(tmp_path / "none.yaml")


def test_yaml_can_run_no_code(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("company: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(tmp_path / "x.yaml")


def test_any_key_can_be_set_from_outside(saved: Any) -> None:
    config = load(saved(), ["tiers.band_ratio=0.1", "left_truncated_before=2020-01-01", "engine.threads=1"])
    assert config.tiers.band_ratio == 0.1
    assert config.left_truncated_before == date(2020, 1, 1)
    assert config.engine.threads == 1


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("tiers.band_ratio", "expects key=value"),
        ("=1", "expects key=value"),
        ("company.name=x", "company is a value, not a section"),
        ("tiers.bandratio=0.1", "did you mean 'band_ratio'"),
        ("tiers.band_ratio=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_refused(saved: Any, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(saved(), [override])


def test_settings_are_frozen() -> None:
    config = Config.model_validate(SMALLEST)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 8  # type: ignore[misc]


def test_the_hash_is_of_what_is_computed_not_of_where(saved: Any) -> None:
    path = saved()
    plain = load(path)
    assert plain.hash == load(path, ["engine.threads=7", "warehouse.path=elsewhere.duckdb"]).hash
    assert plain.hash != load(path, ["seed=8"]).hash


def test_late_money_is_charged_once() -> None:
    """Where payment has weight of its own, contribution does not charge it again."""
    weights = {"composite": {"weights": {"lifetime_value": 1.0}}}
    always = {"contribution": {"late_money": "contribution"}}
    assert not Config.model_validate(SMALLEST).charges_late_money
    assert Config.model_validate(SMALLEST | weights).charges_late_money
    assert Config.model_validate(SMALLEST | always).charges_late_money


@pytest.mark.parametrize("column", ["agency", "sector = 'health'", "essex_branch", "language"])
def test_a_column_that_only_resembles_a_protected_one_is_an_attribute(saved: Any, column: str) -> None:
    sources = CUSTOMERS["sources"] | {"customers": {"path": "x", "columns": {"kind": column}}}
    assert load(saved(sources=sources, attributes={"kind": CATEGORY})).attributes.keys() == {"kind"}


def test_what_we_spend_on_a_lead_is_declared_as_our_decision_and_kept_from_the_models(saved: Any) -> None:
    number = {"type": "number"}
    known = load(
        saved(
            sources=CUSTOMERS["sources"],
            attributes={
                "campaign_cost": number | {"known_at": "our_decision"},
                "calls_cost": number | {"known_at": "after_contact"},
                "budget": number | {"known_at": "first_contact", "checked": "the lead's own, from the form"},
                "campaign": CATEGORY,  # which campaign a lead came by
                "costa_rica": number | {"known_at": "first_contact"},
            },
        )
    ).known_at_first_contact
    assert known.keys() == {"budget", "campaign", "costa_rica"}
