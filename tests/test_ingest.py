"""What arrives in the core tables, what is set aside with which reason, and what stops the run."""

from __future__ import annotations

import csv
import importlib.util
import random
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from clv.config import Config
from clv.errors import ConfigError, TableError
from clv.ingest import Loaded, load
from clv.ingest.contract import OTHER_SET_ASIDE, ROW_RULES, STOPS, Action
from clv.program import guarded
from clv.tables import CORE
from clv.warehouse import Engine, workspace

AS_OF = date(2025, 1, 1)
Row = Mapping[str, str]
Tables = dict[str, list[dict[str, str]]]


def rows(columns: str, *lines: str) -> list[dict[str, str]]:
    """Records from space-separated fields; `-` is an empty one."""
    names = columns.split()
    return [dict(zip(names, ("" if v == "-" else v for v in line.split()), strict=True)) for line in lines]


def sound() -> Tables:
    """A small company without a single breach."""
    return {
        "exchange_rates": rows("currency rate_date rate", "USD 2024-01-10 0.9", "USD 2024-03-01 0.8"),
        "customers": rows(
            "customer_id name first_contact_date industry employee_count is_key_account",
            "00123 Ann 2023-01-01 steel 12 true",
            "B Bob 2023-02-01 food - false",
            "P Pia 2024-05-01 food 7 no",
        ),
        "products": rows("product_id unit_cost", "p1 4.5"),
        "order_lines": rows(
            "line_id order_id customer_id order_date net_amount quantity unit_cost currency posted_date",
            "1 o1 00123 2024-02-01 100 10 5 EUR -",
            "2 o2 B 2024-02-02 50.5 1 - USD -",
        ),
        "invoices": rows(
            "invoice_id customer_id invoice_date due_date amount currency dispute_opened_date "
            "dispute_closed_date dispute_fault",
            "i1 00123 2024-02-01 2024-03-01 100 EUR 2024-03-05 2024-03-09 seller",
            "i2 B 2024-02-02 2024-03-02 50 USD - - -",
        ),
        "payments": rows(
            "payment_id invoice_id payment_date amount", "y1 i1 2024-03-10 100", "y2 i2 2024-04-10 50"
        ),
        "service_events": rows("customer_id event_date activity quantity", "B 2024-02-01 visit 1"),
        "credit_events": rows("customer_id event_date kind", "B 2024-02-01 blocked"),
        "account_links": rows(
            "customer_id account_group_id valid_from valid_to", "B g 2024-01-01 2024-06-01"
        ),
        "judgements": rows(
            "customer_id criterion score judged_by judged_date valid_until",
            "P prospect 70 eva 2024-06-01 2025-06-01",
        ),
        "overrides": rows(
            "customer_id tier decided_by decided_date valid_until reason",
            "B main eva 2024-06-01 2025-06-01 new",
        ),
    }


ATTRIBUTES = {
    "industry": {"type": "category", "known_at": "first_contact"},
    "employee_count": {"type": "number", "known_at": "first_contact"},
    "is_key_account": {"type": "flag", "known_at": "after_contact"},
}


def settings_for(sources: Mapping[str, Any], **more: Any) -> Config:
    more = {"attributes": ATTRIBUTES if "customers" in sources else {}} | more
    return Config.model_validate(
        {"company": "test", "reporting_currency": "EUR", "sources": dict(sources), **more}
    )


def written(folder: Path, tables: Tables) -> dict[str, dict[str, Any]]:
    """The tables as CSV files, and the sources that name them."""
    for name, records in tables.items():
        columns = list(dict.fromkeys(column for record in records for column in record))
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(records)
    return {name: {"path": str(folder / f"{name}.csv")} for name in tables}


def ingest(db: Engine, folder: Path, tables: Tables, as_of: date = AS_OF, **more: Any) -> Loaded:
    return load(db, settings_for(written(folder, tables), **more), as_of)


def rejected(db: Engine) -> list[tuple[str, str]]:
    return db.rows("SELECT table_name, rule FROM main.rejected_rows ORDER BY ALL")


def changed(table: str, **values: str) -> Callable[[Tables], None]:
    """The last row of the table with other values, under a new key, beside the sound ones."""

    def change(tables: Tables) -> None:
        fresh = {name: "new" for name in ("line_id", "payment_id", "invoice_id") if name in tables[table][-1]}
        if table == "payments":
            fresh = {"payment_id": "new"}
        tables[table].append(tables[table][-1] | fresh | values)

    return change


# Per rule: a row that breaks it and nothing else.
BREACHES: dict[str, tuple[str, Callable[[Tables], None]]] = {
    "unreadable_date": ("order_lines", changed("order_lines", order_date="02/30/2024")),
    "implausible_date": ("order_lines", changed("order_lines", order_date="1899-12-30")),
    "unknown_invoice": ("payments", changed("payments", invoice_id="nobody's")),
    "no_rate_yet": ("order_lines", changed("order_lines", currency="USD", order_date="2024-01-09")),
    "implausible_amount": (
        "order_lines",
        changed("order_lines", net_amount="-10000000000000.01", currency="EUR"),
    ),
    "unreadable_amount": ("order_lines", changed("order_lines", net_amount="NaN")),
    "missing_value": ("order_lines", changed("order_lines", order_id="")),
    "unknown_customer": ("order_lines", changed("order_lines", customer_id="123")),
    "implausible_due_date": ("invoices", changed("invoices", due_date="2026-02-05")),
    "dispute_closed_before_opened": (
        "invoices",
        changed("invoices", dispute_opened_date="2024-05-02", dispute_closed_date="2024-05-01"),
    ),
    "unknown_event_kind": ("credit_events", changed("credit_events", kind="promoted")),
    "score_out_of_range": ("judgements", changed("judgements", score="100.5")),
    "unknown_criterion": ("judgements", changed("judgements", criterion="charm")),
    "unknown_tier": ("overrides", changed("overrides", tier="platinum")),
    "nonpositive_rate": ("exchange_rates", changed("exchange_rates", rate_date="2024-04-01", rate="0")),
    "ends_before_start": ("account_links", changed("account_links", valid_to="2023-12-31")),
    "unusable_optional_value": ("order_lines", changed("order_lines", quantity="many")),
    "unknown_dispute_fault": (
        "invoices",
        changed("invoices", dispute_opened_date="2024-05-02", dispute_fault="weather"),
    ),
    "missing_due_date": ("invoices", changed("invoices", due_date="")),
    "due_before_issue": ("invoices", changed("invoices", due_date="2024-01-15")),
    "missing_event_quantity": (
        "service_events",
        changed("service_events", event_date="2024-02-03", quantity=""),
    ),
    "missing_currency": ("order_lines", changed("order_lines", currency="")),
    "negative_line": ("order_lines", changed("order_lines", net_amount="-5")),
    "prepayment": ("payments", changed("payments", payment_date="2024-02-01")),
    "late_posted": ("order_lines", changed("order_lines", posted_date="2024-02-05")),
}


def test_a_sound_company_breaks_nothing(engine: Engine, tmp_path: Path) -> None:
    loaded = ingest(engine, tmp_path, sound())
    assert loaded.rejected == 0
    assert loaded.notes == ["customers: undated: as known today"]
    assert loaded.row_counts == {name: len(records) for name, records in sound().items()}
    assert loaded.absent == frozenset()


@pytest.mark.parametrize(
    "rule", [rule for rule in ROW_RULES if rule.action is not Action.STOP], ids=lambda r: r.name
)
def test_every_row_rule_catches_its_breach_and_no_other_does(
    engine: Engine, tmp_path: Path, rule: Any
) -> None:
    table, breach = BREACHES[rule.name]
    tables = sound()
    breach(tables)
    loaded = ingest(engine, tmp_path, tables)
    noted = [note for note in loaded.notes if "×" in note]
    if rule.action is Action.SET_ASIDE:
        assert rejected(engine) == [(table, rule.name)]
        assert noted == []
        assert loaded.row_counts[table] == len(sound()[table])
    else:
        assert rejected(engine) == []
        assert len(noted) == 1
        assert noted[0].startswith(table)
        assert f": 1 × {rule.name}: {rule.meaning}" in noted[0]
        assert loaded.row_counts[table] == len(sound()[table]) + 1


def test_every_rule_stands_in_the_document() -> None:
    text = (Path(__file__).parents[1] / "docs" / "data-contract.md").read_text(encoding="utf-8")
    for rule in ROW_RULES:
        assert f"| `{rule.name}` | {rule.action.value} | {rule.meaning} |" in text
    for name, meaning in (*STOPS.items(), *OTHER_SET_ASIDE.items()):
        assert f"| `{name}` | " in text
        assert meaning in text


@pytest.mark.parametrize(
    ("rule", "breach", "says"),
    [
        ("unknown_currency", changed("order_lines", currency="CHF"), "for CHF \\(1 rows\\)"),
        (
            "duplicate_key",
            changed("order_lines", line_id="1"),
            "one row per line_id, found 1 repeated keys, first 1",
        ),
        ("duplicate_key", changed("customers"), "one row per customer_id, found 1 repeated keys, first P"),
        ("duplicate_key", changed("products"), "products: expected one row per product_id"),
        ("duplicate_key", changed("invoices", invoice_id="i1"), "invoices: .* first i1"),
        ("duplicate_key", changed("payments", payment_id="y1"), "payments: .* first y1"),
        ("duplicate_key", changed("exchange_rates"), "first USD, 2024-03-01"),
        (
            "required_table_empty",
            lambda t: t.update(order_lines=[dict.fromkeys(t["order_lines"][0], "")]),
            "order_lines: expected rows before",
        ),
    ],
)
def test_a_fatal_breach_stops_the_run(
    engine: Engine, tmp_path: Path, rule: str, breach: Callable[[Tables], None], says: str
) -> None:
    assert rule in STOPS or rule == "unknown_currency"
    tables = sound()
    breach(tables)
    with pytest.raises(TableError, match=says) as raised:
        ingest(engine, tmp_path, tables)
    assert raised.value.exit_code == 3


def test_required_column_absent_stops_the_run(engine: Engine, tmp_path: Path) -> None:
    tables = sound()
    for row in tables["order_lines"]:
        del row["net_amount"]
    with pytest.raises(TableError, match="expected the required column net_amount, found line_id, order_id"):
        ingest(engine, tmp_path, tables)


def test_mostly_null_ids_stop_the_run(engine: Engine, tmp_path: Path) -> None:
    tables = sound()
    tables["order_lines"] += [
        tables["order_lines"][0] | {"line_id": f"n{i}", "customer_id": ""} for i in range(12)
    ]
    with pytest.raises(TableError, match=r"order_lines\.customer_id: .* found 12 of 14 rows without one"):
        ingest(engine, tmp_path, tables, contract={"maximum_rejected_ratio": 1})


def test_too_many_set_aside_stop_the_run(engine: Engine, tmp_path: Path) -> None:
    tables = sound()
    good, bad = tables["order_lines"][0], {"order_date": "soon"}
    tables["order_lines"] += [good | bad | {"line_id": f"n{i}"} for i in range(3)]
    ingest(engine, tmp_path, tables)
    with pytest.raises(TableError, match=r"at most 5% .* found 3 of 5 .* 3 set aside by unreadable_date"):
        ingest(engine, tmp_path, tables, contract={"tolerated_rows": 2})
    ingest(engine, tmp_path, tables, contract={"tolerated_rows": 0, "maximum_rejected_ratio": 0.6})


def test_a_broken_row_of_the_future_cannot_stop_the_run(engine: Engine, tmp_path: Path) -> None:
    tables = sound()
    later = {"order_date": "2025-01-01", "currency": "XXX", "net_amount": "NaN", "customer_id": "nobody"}
    tables["order_lines"].append(tables["order_lines"][0] | later)
    tables["order_lines"].append(tables["order_lines"][0] | {"posted_date": "2025-01-02", "currency": "XXX"})
    tables["invoices"].append(tables["invoices"][0] | {"invoice_date": "2025-02-01", "amount": "?"})
    tables["customers"] += [{"customer_id": "F", "first_contact_date": "2025-03-01"}] * 2
    loaded = ingest(engine, tmp_path, tables)
    assert loaded.rejected == 0
    assert loaded.row_counts == {name: len(records) for name, records in sound().items()}
    assert loaded.accounts["order_lines"].later == 2
    assert loaded.accounts["customers"].later == 2


def test_nothing_on_or_after_as_of_changes_what_is_loaded(engine: Engine, tmp_path: Path) -> None:
    def content() -> dict[str, Any]:
        names = [*CORE, "rejected_rows"]
        return {name: engine.rows(f"SELECT * FROM main.{name} ORDER BY ALL") for name in names}

    tables = sound()
    ingest(engine, tmp_path, tables)
    before = content()
    tables["invoices"][1] |= {"dispute_opened_date": "2025-02-03", "dispute_closed_date": "2025-02-01"}
    tables["invoices"][1] |= {"dispute_fault": "weather"}
    tables["account_links"][0] |= {"valid_to": "2024-06-01"}
    tables["exchange_rates"].append({"currency": "USD", "rate_date": "2025-01-01", "rate": "-3"})
    tables["payments"].append({"payment_id": "y1", "invoice_id": "none", "payment_date": "2025-01-01"})
    loaded = ingest(engine, tmp_path, tables)
    assert content() == before
    assert [note for note in loaded.notes if "×" in note] == []


def test_a_prepayment_of_an_invoice_not_issued_yet_is_later_not_unknown(
    engine: Engine, tmp_path: Path
) -> None:
    tables = sound()
    tables["invoices"].append(tables["invoices"][0] | {"invoice_id": "i9", "invoice_date": "2025-01-05"})
    tables["payments"].append(tables["payments"][0] | {"payment_id": "y9", "invoice_id": "i9"})
    loaded = ingest(engine, tmp_path, tables)
    assert loaded.rejected == 0
    assert loaded.accounts["payments"].later == 1


def test_the_payment_of_an_invoice_set_aside_says_so(engine: Engine, tmp_path: Path) -> None:
    tables = sound()
    tables["invoices"][0]["due_date"] = "2031-01-01"
    ingest(engine, tmp_path, tables)
    found = engine.rows("SELECT table_name, rule, detail FROM main.rejected_rows ORDER BY ALL")
    assert found == [
        ("invoices", "implausible_due_date", "due 2031-01-01, issued 2024-02-01"),
        ("payments", "unknown_invoice", "i1: set aside, implausible_due_date"),
    ]


def test_money_is_converted_at_the_rate_of_its_day_and_balances_close(engine: Engine, tmp_path: Path) -> None:
    ingest(engine, tmp_path, sound())
    assert engine.rows("SELECT net_amount, unit_cost FROM main.order_lines ORDER BY line_id") == [
        (Decimal("100.0000"), Decimal("5.0000")),
        (Decimal("45.4500"), None),
    ]
    # Paid in April, when the rate had fallen: the invoice's own rate counts.
    assert engine.rows("SELECT amount FROM main.payments WHERE invoice_id = 'i2'") == [(Decimal("45.0000"),)]
    assert engine.rows("SELECT amount FROM main.invoices WHERE invoice_id = 'i2'") == [(Decimal("45.0000"),)]


def test_large_amounts_in_the_reporting_currency_stay_exact(engine: Engine, tmp_path: Path) -> None:
    tables = sound()
    tables["order_lines"][0]["net_amount"] = "9999999999999.9999"
    ingest(engine, tmp_path, tables)
    assert engine.rows("SELECT max(net_amount) FROM main.order_lines") == [(Decimal("9999999999999.9999"),)]


def test_tables_are_typed_as_declared_with_attributes_behind(engine: Engine, tmp_path: Path) -> None:
    ingest(engine, tmp_path, sound())
    for name, table in CORE.items():
        found = [(row[0], row[1]) for row in engine.rows(f"DESCRIBE main.{name}")]
        expected = [(column.name, column.type) for column in table.columns]
        if name == "customers":
            expected += [("industry", "VARCHAR"), ("employee_count", "DOUBLE"), ("is_key_account", "BOOLEAN")]
        assert found == expected


def test_a_broken_attribute_is_empty_and_the_customer_stays(engine: Engine, tmp_path: Path) -> None:
    tables = sound()
    tables["customers"][0] |= {"employee_count": "inf", "is_key_account": "maybe"}
    loaded = ingest(engine, tmp_path, tables)
    found = engine.rows(
        "SELECT employee_count, is_key_account FROM main.customers WHERE customer_id = '00123'"
    )
    assert found == [(None, None)]
    assert [note.split(" ×")[0] for note in loaded.notes if "×" in note] == [
        "customers.employee_count: 1",
        "customers.is_key_account: 1",
    ]


AWKWARD = [
    'O\'Brien "x" <b>&amp;',
    "'; DROP TABLE main.customers; --",
    "=cmd()",
    "😀 王 Ж",
    "a\nb",
    "NA",
    "null",
    "None",
    " x ",
    "1e5",
    "00",
]


def test_values_pass_through_unchanged(engine: Engine, tmp_path: Path) -> None:
    tables = sound()
    for number, text in enumerate(AWKWARD):
        tables["customers"].append(
            {"customer_id": text, "name": text, "first_contact_date": "2024-01-01", "industry": text}
        )
        tables["order_lines"].append(
            tables["order_lines"][0] | {"line_id": f"a{number}", "customer_id": text, "order_id": text}
        )
    loaded = ingest(engine, tmp_path, tables)
    assert loaded.rejected == 0
    names = engine.rows("SELECT customer_id FROM main.customers WHERE name = customer_id AND name = industry")
    assert sorted(row[0] for row in names) == sorted(AWKWARD)
    orders = engine.rows("SELECT order_id FROM main.order_lines WHERE order_id = customer_id")
    assert sorted(row[0] for row in orders) == sorted(AWKWARD)


def test_ragged_lines_are_set_aside_with_file_and_line(engine: Engine, tmp_path: Path) -> None:
    text = (
        "order_id,customer_id,order_date,net_amount\n"
        'o1,00123,2024-01-01,"1,5"\n'
        "o2,00123,2024-01-02,2\n"
        "o3,00123,2024-01-03\n"
        "o4,00123,2024-01-04,4,5\n"
        "\n"
        'o5,"multi\nline",2024-01-05,5\n'
        'o6,"open,2024-01-06,6\n'
    )
    (tmp_path / "lines.csv").write_text(text, encoding="utf-8")
    loaded = load(engine, settings_for({"order_lines": {"path": str(tmp_path / "lines.csv")}}), AS_OF)
    assert engine.rows("SELECT order_id, customer_id FROM main.order_lines ORDER BY ALL") == [
        ("o2", "00123"),
        ("o5", "multi\nline"),
    ]
    found = engine.rows("SELECT row_key, rule FROM main.rejected_rows ORDER BY ALL")
    assert found[:2] == [("lines.csv:4", "ragged_line"), ("lines.csv:5", "ragged_line")]
    assert [rule for _, rule in found] == ["ragged_line", "ragged_line", "ragged_line", "unreadable_amount"]
    assert loaded.accounts["order_lines"].read == 6


def test_a_line_that_is_not_utf8_is_set_aside(engine: Engine, tmp_path: Path) -> None:
    text = "order_id,customer_id,order_date,net_amount\no1,x,2024-01-01,1\no2,\xe4,2024-01-01,1\n"
    (tmp_path / "lines.csv").write_bytes(text.encode("latin-1"))
    load(engine, settings_for({"order_lines": {"path": str(tmp_path / "lines.csv")}}), AS_OF)
    assert engine.rows("SELECT order_id FROM main.order_lines") == [("o1",)]
    assert rejected(engine) == [("order_lines", "ragged_line")]


def test_whitespace_lines_of_the_wrong_length_are_set_aside(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text(
        " id  day  value\r\n 1 20240102  3.50\r\n\r\n 2 20240103\r\n  2 20240104 4 \r\n"
    )
    source = {
        "path": str(tmp_path / "lines.txt"),
        "format": "whitespace",
        "date_format": "%Y%m%d",
        "columns": {"order_id": "id || day", "customer_id": "id", "order_date": "day", "net_amount": "value"},
    }
    load(engine, settings_for({"order_lines": source}), AS_OF)
    assert engine.rows("SELECT order_id, order_date, net_amount FROM main.order_lines ORDER BY ALL") == [
        ("120240102", date(2024, 1, 2), Decimal("3.5000")),
        ("220240104", date(2024, 1, 4), Decimal("4.0000")),
    ]
    assert engine.rows("SELECT row_key, rule FROM main.rejected_rows") == [("lines.txt:4", "ragged_line")]


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2024-06-01", date(2024, 6, 1)),
        ("2024-06-01 23:30:00", date(2024, 6, 1)),
        ("2024-06-01T23:30:00Z", date(2024, 6, 2)),
        ("2024-06-01T23:30:00+02:00", date(2024, 6, 1)),
        ("2024-06-01 20:30:00-05", date(2024, 6, 2)),
    ],
)
def test_time_stamps_become_dates_in_the_declared_zone(
    engine: Engine, tmp_path: Path, text: str, day: date
) -> None:
    tables = sound()
    tables["order_lines"][0]["order_date"] = text
    ingest(engine, tmp_path, tables, time_zone="Europe/Berlin")
    assert engine.rows("SELECT order_date FROM main.order_lines WHERE line_id = '1'") == [(day,)]


def test_an_unknown_time_zone_is_a_wrong_setting(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="time_zone: expected a name"):
        ingest(engine, tmp_path, sound(), time_zone="Middle/Earth")


def test_an_attribute_named_like_a_word_of_sql_is_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"attributes\.group"):
        ingest(engine, tmp_path, sound(), attributes={"group": ATTRIBUTES["industry"]})


def test_an_attribute_that_the_source_lacks_stops_the_run(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="expected the attribute web_visits, found customer_id"):
        ingest(engine, tmp_path, sound(), attributes={"web_visits": ATTRIBUTES["employee_count"]})


def a_database(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA company")
        connection.execute(
            "CREATE TABLE company.sales AS SELECT * FROM (VALUES "
            "(1.0::DOUBLE, 17::INTEGER, TIMESTAMPTZ '2024-06-01 23:30:00+00', 5.25::DOUBLE, 'ok'), "
            "(2.0, 18, TIMESTAMPTZ '2024-06-02 10:00:00+00', 'nan'::DOUBLE, 'ok'), "
            "(NULL, 19, TIMESTAMPTZ '2024-06-03 10:00:00+00', 7, 'void')) AS t(no, buyer, moment, value, state)"
        )


MAPPED = {"order_id": "no", "customer_id": "buyer", "order_date": "moment", "net_amount": "value"}


@pytest.mark.parametrize(
    "source", [{"table": "company.sales"}, {"query": "WITH s AS (FROM company.sales) SELECT * FROM s;"}]
)
def test_a_table_and_a_query_of_a_duckdb_file_read_alike(
    engine: Engine, tmp_path: Path, source: dict[str, str]
) -> None:
    a_database(tmp_path / "shop.duckdb")
    where = {"where": "state = 'ok' AND CAST(no AS INTEGER) > 0"}
    config = settings_for(
        {"order_lines": source | where | {"columns": MAPPED}},
        time_zone="Europe/Berlin",
        warehouse={"path": str(tmp_path / "shop.duckdb")},
    )
    loaded = load(engine, config, AS_OF)
    # A number kept as a fraction is an identifier without a decimal point.
    assert engine.rows("SELECT order_id, customer_id, order_date, net_amount FROM main.order_lines") == [
        ("1", "17", date(2024, 6, 2), Decimal("5.2500"))
    ]
    assert rejected(engine) == [("order_lines", "unreadable_amount")]
    assert loaded.accounts["order_lines"].filtered == 1
    assert any("left out by where: state = 'ok'" in note for note in loaded.notes)
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:  # let go of
        assert connection.execute("SELECT count(*) FROM company.sales").fetchall() == [(3,)]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            {"columns": MAPPED | {"net_amount": "valeu * 2"}},
            "columns.net_amount: expected a column 'valeu', found none; did you mean 'value'",
        ),
        ({"columns": MAPPED | {"net_amount": "value *"}}, "columns.net_amount: .* no SQL expression"),
        ({"columns": MAPPED, "where": "stat = 'ok'"}, "columns.where: expected a column 'stat'.* 'state'"),
        ({"columns": MAPPED | {"order_id": "CAST(state AS INTEGER)"}}, "write TRY_CAST for CAST"),
        ({"table": "company.nothing"}, "company.nothing in .*expected a readable table"),
    ],
)
def test_a_wrong_mapping_says_what_is_wrong(
    engine: Engine, tmp_path: Path, source: dict[str, Any], says: str
) -> None:
    a_database(tmp_path / "shop.duckdb")
    order_lines = {"table": "company.sales", "database": str(tmp_path / "shop.duckdb")} | source
    with pytest.raises(TableError, match=says):
        load(engine, settings_for({"order_lines": order_lines}), AS_OF)
    assert engine.rows("SELECT current_database()") == [("memory",)]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere.csv", "expected a file, found none"),
        ("package://lifetimes/../secrets.txt", "without '..'"),
        ("package://no_such_package/x.csv", "expected the package no_such_package"),
        ("package://lifetimes/datasets/none.txt", "expected a file, found none"),
    ],
)
def test_a_file_that_is_not_there_is_named(engine: Engine, path: str, says: str) -> None:
    with pytest.raises(TableError, match=says):
        load(engine, settings_for({"order_lines": {"path": path, "format": "csv"}}), AS_OF)


def test_a_missing_warehouse_is_named(engine: Engine, tmp_path: Path) -> None:
    config = settings_for({"order_lines": {"table": "x"}}, warehouse={"path": str(tmp_path / "none.duckdb")})
    with pytest.raises(TableError, match=r"none\.duckdb"):
        load(engine, config, AS_OF)
    (tmp_path / "none.duckdb").write_text("no database at all, only text that is long enough to be read")
    with pytest.raises(TableError, match="not a valid DuckDB"):
        load(engine, config, AS_OF)


def test_customers_may_be_derived_from_order_lines(engine: Engine, tmp_path: Path) -> None:
    tables = {name: sound()[name] for name in ("order_lines", "exchange_rates")}
    loaded = ingest(engine, tmp_path, tables)
    assert engine.rows("SELECT customer_id, first_contact_date FROM main.customers ORDER BY ALL") == [
        ("00123", date(2024, 2, 1)),
        ("B", date(2024, 2, 2)),
    ]
    assert "customers: derived from order_lines, first contact = first order" in loaded.notes
    assert loaded.absent == frozenset(CORE) - {"order_lines", "exchange_rates"}


def test_first_contact_is_the_first_order_where_unknown_and_else_stays_unknown(
    engine: Engine, tmp_path: Path
) -> None:
    tables = sound()
    for row in tables["customers"]:
        row["first_contact_date"] = ""
    loaded = ingest(engine, tmp_path, tables)
    assert engine.rows("SELECT customer_id, first_contact_date FROM main.customers ORDER BY ALL") == [
        ("00123", date(2024, 2, 1)),
        ("B", date(2024, 2, 2)),
        ("P", None),
    ]
    assert any(note.startswith("customers: 1 with neither first contact nor order") for note in loaded.notes)


def test_left_truncated_customers_are_dropped_with_their_facts_and_a_count(
    engine: Engine, tmp_path: Path
) -> None:
    loaded = ingest(engine, tmp_path, sound(), left_truncated_before=date(2024, 2, 2))
    assert loaded.row_counts["customers"] == 2
    for name in ("order_lines", "invoices", "payments"):
        assert loaded.row_counts[name] == 1
        assert loaded.accounts[name].left_truncated == 1
    assert any(
        "1 dropped with all their facts: first order before 2024-02-02" in note for note in loaded.notes
    )


def test_exact_duplicates_are_kept_and_counted_unless_configured(engine: Engine, tmp_path: Path) -> None:
    tables = sound()
    for row in tables["order_lines"]:
        del row["line_id"]
    tables["order_lines"] += [tables["order_lines"][0]] * 2
    sources = written(tmp_path, tables)
    loaded = load(engine, settings_for(sources), AS_OF)
    assert loaded.row_counts["order_lines"] == 4
    assert "order_lines: 2 × exact_duplicate: equal to an earlier row, kept" in loaded.notes
    sources["order_lines"]["exact_duplicates"] = "set_aside"
    loaded = load(engine, settings_for(sources), AS_OF)
    assert loaded.row_counts["order_lines"] == 2
    assert rejected(engine) == [("order_lines", "exact_duplicate")] * 2


def test_dated_customers_may_stand_several_times(engine: Engine, tmp_path: Path) -> None:
    tables = sound()
    for row in tables["customers"]:
        row["valid_from"] = "2023-01-01"
    tables["customers"].append(tables["customers"][0] | {"valid_from": "2024-06-01", "industry": "glass"})
    tables["customers"].append(tables["customers"][0] | {"valid_from": "2025-06-01", "industry": "paper"})
    loaded = ingest(engine, tmp_path, tables)
    assert loaded.row_counts["customers"] == 4
    assert loaded.accounts["customers"].later == 1
    assert not any("undated" in note for note in loaded.notes)
    tables["customers"].append(tables["customers"][3] | {"industry": "wood"})
    with pytest.raises(TableError, match="one row per customer_id, valid_from"):
        ingest(engine, tmp_path, tables)


FIELD = {
    "order_id": st.sampled_from(["o1", "o2", ""]),
    "customer_id": st.sampled_from(["00123", "B", "nobody", ""]),
    "order_date": st.sampled_from(["2024-02-01", "2025-06-01", "1850-01-01", "soon", "", "infinity"]),
    "net_amount": st.sampled_from(["1", "-1", "1e20", "inf", "x", ""]),
    "currency": st.sampled_from(["EUR", "USD", ""]),
    "posted_date": st.sampled_from(["", "2024-02-03", "2025-03-01", "?"]),
    "quantity": st.sampled_from(["1", "some", ""]),
}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.fixed_dictionaries(FIELD), max_size=12),
    ragged=st.integers(0, 3),
    shuffle=st.randoms(use_true_random=False),
)
def test_every_row_is_accounted_for_in_any_order(
    tmp_path: Path, lines: list[dict[str, str]], ragged: int, shuffle: random.Random
) -> None:
    tables = {name: sound()[name] for name in ("customers", "exchange_rates")}
    tables["order_lines"] = [
        {"order_id": "o0", "customer_id": "B", "order_date": "2024-01-20", "net_amount": "7"},
        *lines,
    ]

    def outcome() -> tuple[Any, ...]:
        sources = written(tmp_path, tables)
        with (tmp_path / "order_lines.csv").open("a", encoding="utf-8") as file:
            file.write("too,few\r\n" * ragged)
        sources["order_lines"]["where"] = "order_id IS DISTINCT FROM 'o2'"
        with workspace(threads=1, memory_limit="1GB") as db:
            config = settings_for(sources, contract={"tolerated_rows": 100})
            loaded = load(db, config, AS_OF)
            left = db.rows("SELECT * FROM main.order_lines ORDER BY ALL")
            aside = db.rows("SELECT * EXCLUDE row_key FROM main.rejected_rows ORDER BY ALL")
            return loaded, left, aside

    loaded, left, aside = outcome()
    account = loaded.accounts["order_lines"]
    assert account.read == 1 + len(lines) + ragged
    assert account.filtered == sum(line["order_id"] == "o2" for line in lines)
    assert account.kept == len(left) == loaded.row_counts["order_lines"]
    assert sum(account.set_aside.values()) == len(aside) == loaded.rejected
    assert account.read == account.filtered + account.later + len(aside) + account.kept
    shuffle.shuffle(tables["order_lines"])
    assert outcome() == (loaded, left, aside)


def check_program(*arguments: str) -> Result:
    path = Path(__file__).parents[1] / "pipelines" / "check.py"
    spec = importlib.util.spec_from_file_location("check_program", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = typer.Typer()
    app.command()(guarded(module.main))
    return CliRunner().invoke(app, list(arguments))


def test_check_shows_what_was_set_aside_and_exits_by_the_kind_of_error(tmp_path: Path) -> None:
    tables = sound()
    BREACHES["unknown_event_kind"][1](tables)
    config = {"company": "test", "reporting_currency": "EUR", "sources": written(tmp_path, tables)}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    arguments = ("--config", str(tmp_path / "my.yaml"), "--as-of", "2025-01-01", "--set", "engine.threads=1")
    sound_run = check_program(*arguments)
    assert sound_run.exit_code == 0
    for words in ("unknown_event_kind", "promoted", "customers: undated: as known today", "order_lines"):
        assert words in sound_run.output
    strict = ("--set", "contract.tolerated_rows=0")
    assert check_program(*arguments, *strict).exit_code == 3
    assert check_program(*arguments, "--set", "nonsense=1").exit_code == 2
    assert check_program("--config", str(tmp_path / "my.yaml"), "--as-of", "soon").exit_code == 2


def test_a_path_may_name_an_environment_variable(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = written(tmp_path, sound())
    sources["order_lines"]["path"] = "${CLV_TEST_FOLDER}/order_lines.csv"
    monkeypatch.delenv("CLV_TEST_FOLDER", raising=False)
    with pytest.raises(TableError, match="expected the environment variable CLV_TEST_FOLDER, found none"):
        load(engine, settings_for(sources), AS_OF)
    monkeypatch.setenv("CLV_TEST_FOLDER", str(tmp_path))
    assert load(engine, settings_for(sources), AS_OF).row_counts["order_lines"] > 0


# Real companies


def test_cdnow_reads_whole(engine: Engine) -> None:
    source = {
        "path": "package://lifetimes/datasets/CDNOW_master.txt",
        "format": "whitespace",
        "date_format": "%Y%m%d",
        "columns": {
            "order_id": "customer_id || '-' || date",
            "customer_id": "customer_id",
            "order_date": "date",
            "net_amount": "dollar_value",
            "quantity": "number_of_cds",
        },
    }
    loaded = load(engine, settings_for({"order_lines": source}), date(1999, 1, 1))
    assert loaded.row_counts["order_lines"] == 69659
    assert loaded.row_counts["customers"] == 23570
    assert loaded.rejected == 0
    found = engine.rows("SELECT min(order_date), max(order_date), min(customer_id) FROM main.order_lines")
    assert found == [(date(1997, 1, 1), date(1998, 6, 30), "00001")]


def test_online_retail_keeps_its_net_value(engine: Engine, shared_data: Path) -> None:
    source = {
        "path": str(shared_data / "online_retail" / "online_retail_to_2011-08-31.parquet"),
        "columns": {
            "order_id": "InvoiceNo",
            "customer_id": "coalesce(CAST(CustomerID AS VARCHAR), 'unknown')",
            "order_date": "InvoiceDate",
            "net_amount": "Quantity * UnitPrice",
            "quantity": "Quantity",
            "product_id": "StockCode",
        },
    }
    loaded = load(engine, settings_for({"order_lines": source}), date(2011, 9, 1))
    assert loaded.row_counts["order_lines"] == 320705
    assert engine.rows("SELECT round(sum(net_amount), 2) FROM main.order_lines") == [(Decimal("5761931.38"),)]
    known = source | {"columns": source["columns"] | {"customer_id": "CustomerID"}}  # type: ignore[operator]
    with pytest.raises(TableError, match="88652 set aside by missing_value"):
        load(engine, settings_for({"order_lines": known}), date(2011, 9, 1))
    loaded = load(
        engine, settings_for({"order_lines": known | {"where": "CustomerID IS NOT NULL"}}), date(2011, 9, 1)
    )
    assert loaded.accounts["order_lines"].filtered == 88652
    assert loaded.row_counts["customers"] == 3360


def test_contoso_converts_five_currencies(engine: Engine, shared_data: Path, tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "raw.duckdb")) as connection:
        for name in ("orders", "orderrows", "fx"):
            connection.execute(f"CREATE TABLE {name} AS FROM '{shared_data / 'contoso' / name}.parquet'")
        plain = connection.execute(
            "SELECT sum(quantity * net_price), sum(quantity * net_price * exchange) FROM orderrows "
            "JOIN orders USING (order_key) "
            "JOIN fx ON fx.date = order_date AND from_currency = currency_code AND to_currency = 'USD'"
        ).fetchall()[0]
    place = {"database": str(tmp_path / "raw.duckdb")}
    sources = {
        "order_lines": place
        | {
            "query": "SELECT * FROM orderrows JOIN orders USING (order_key)",
            "columns": {
                "line_id": "order_key || '-' || line_number",
                "order_id": "order_key",
                "customer_id": "customer_key",
                "order_date": "order_date",
                "net_amount": "quantity * net_price",
                "quantity": "quantity",
                "unit_cost": "unit_cost",
                "currency": "currency_code",
            },
        },
        "exchange_rates": place
        | {
            "table": "fx",
            "where": "to_currency = 'USD'",
            "columns": {"currency": "from_currency", "rate_date": "date", "rate": "exchange"},
        },
    }
    loaded = load(engine, settings_for(sources, reporting_currency="USD"), date(2031, 1, 1))
    assert loaded.row_counts["order_lines"] == 7794
    assert plain[0] == pytest.approx(7305939.03, abs=0.005)
    converted = float(engine.rows("SELECT sum(net_amount) FROM main.order_lines")[0][0])
    assert converted == pytest.approx(plain[1], abs=1)
    assert engine.rows("SELECT count(*) FROM main.order_lines WHERE customer_id LIKE '%.%'") == [(0,)]
    del sources["exchange_rates"]
    sources["order_lines"]["columns"].pop("currency")  # type: ignore[attr-defined]
    load(engine, settings_for(sources, reporting_currency="USD"), date(2031, 1, 1))
    found = engine.rows(
        "SELECT round(sum(net_amount), 2), round(sum(net_amount - quantity * unit_cost), 2) FROM main.order_lines"
    )
    assert [float(value) for value in found[0]] == pytest.approx([7305939.03, 4097725.11], abs=0.05)


def test_classicmodels_orders_and_payments_keep_their_totals(
    engine: Engine, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "classicmodels"
    with duckdb.connect(str(tmp_path / "raw.duckdb")) as connection:
        for name in ("customers", "orders", "orderdetails", "payments"):
            connection.execute(
                f"CREATE TABLE {name} AS FROM read_csv('{folder / name}.csv', all_varchar = true)"
            )
    place = {"database": str(tmp_path / "raw.duckdb")}
    sources = {
        "customers": place
        | {"table": "customers", "columns": {"customer_id": "customerNumber", "name": "customerName"}},
        "order_lines": place
        | {
            "query": "SELECT * FROM orderdetails JOIN orders USING (orderNumber)",
            "columns": {
                "order_id": "orderNumber",
                "customer_id": "customerNumber",
                "order_date": "orderDate",
                "net_amount": "CAST(quantityOrdered AS INTEGER) * CAST(priceEach AS DECIMAL(18, 2))",
            },
        },
        # Payments name the customer alone: one invoice per payment lets the amounts be read.
        "invoices": place
        | {
            "table": "payments",
            "columns": {
                "invoice_id": "checkNumber",
                "customer_id": "customerNumber",
                "invoice_date": "paymentDate",
                "amount": "amount",
            },
        },
        "payments": place
        | {
            "table": "payments",
            "columns": {"invoice_id": "checkNumber", "payment_date": "paymentDate", "amount": "amount"},
        },
    }
    loaded = load(engine, settings_for(sources, attributes={}, reporting_currency="USD"), date(2006, 1, 1))
    assert loaded.rejected == 0
    assert loaded.row_counts["customers"] == 122
    assert engine.rows("SELECT sum(net_amount) FROM main.order_lines") == [(Decimal("9604190.6100"),)]
    assert engine.rows("SELECT sum(amount) FROM main.payments") == [(Decimal("8853839.2300"),)]
    assert any(note.startswith("customers: 24 with neither") for note in loaded.notes)


def test_adventureworks_reads_whole_through_a_query_over_files(
    engine: Engine, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "adventureworks"
    duckdb.connect(str(tmp_path / "empty.duckdb")).close()
    query = (
        f"SELECT s.*, p.ProductPrice, p.ProductCost "
        f"FROM read_csv('{folder}/sales_2015_2016.csv', all_varchar = true) AS s "
        f"JOIN read_csv('{folder}/products.csv', all_varchar = true) AS p USING (ProductKey)"
    )
    source = {
        "database": str(tmp_path / "empty.duckdb"),
        "query": query,
        "columns": {
            "line_id": "OrderNumber || '-' || OrderLineItem",
            "order_id": "OrderNumber",
            "customer_id": "CustomerKey",
            "order_date": "OrderDate",
            "net_amount": "CAST(OrderQuantity AS INTEGER) * CAST(ProductPrice AS DECIMAL(18, 4))",
            "quantity": "OrderQuantity",
            "unit_cost": "ProductCost",
        },
    }
    loaded = load(engine, settings_for({"order_lines": source}), date(2017, 1, 1))
    assert loaded.row_counts["order_lines"] == 26565
    assert loaded.row_counts["customers"] == 10559
    assert loaded.rejected == 0


def test_invoices_without_payments_are_left_out_as_every_one_would_look_unpaid(
    engine: Engine, tmp_path: Path
) -> None:
    tables = sound()
    del tables["payments"]
    loaded = ingest(engine, tmp_path, tables)
    assert loaded.row_counts["invoices"] == 0
    assert "invoices: not read: without payments every one would look unpaid" in loaded.notes


def test_an_attribute_named_like_a_column_of_the_reading_is_refused(engine: Engine, tmp_path: Path) -> None:
    attributes = {"given_name": {"type": "category", "known_at": "first_contact"}}
    with pytest.raises(ConfigError, match=r"attributes\.given_name: is a name that reading needs"):
        ingest(engine, tmp_path, sound(), attributes=attributes)
