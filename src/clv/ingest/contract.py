"""The contract that a company's tables must keep: every rule, what it watches, and what a breach leads to.

A row rule is SQL over one row: `x` is column x typed and converted, `given_x` the value as the source gave it.
`ingest` runs the rules; docs/data-contract.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from clv.tables import CRITERIA, MONEY, Column, Table

if TYPE_CHECKING:
    from clv.config import Config

EARLIEST = "1900-01-01"
LARGEST_AMOUNT = "1e13"
LONGEST_TERMS_DAYS = 731
FACTS = ("order_lines", "invoices", "payments", "service_events", "credit_events")
OF_A_CUSTOMER = ("order_lines", "invoices", "service_events", "credit_events", "account_links", "judgements")

# Rules about a whole table; a breach stops the run.
STOPS: Mapping[str, str] = {
    "required_column_absent": "a required column is neither mapped nor in the source",
    "required_table_empty": "`order_lines`, or `customers` where it is given, has no row visible before as_of",
    "mostly_null_ids": "an identifier is empty in more than half of the rows",
    "too_many_set_aside": "more than `contract.maximum_rejected_ratio` of a table's visible rows, and more than "
    "`contract.tolerated_rows` of them, would be set aside",
    "cycle": "account groups that are customers themselves belong to each other in a circle on the day of the run",
    "duplicate_key": "two rows share the key of `customers` (with `valid_from` where given), `products`, "
    "`invoices` or `exchange_rates`, or a `line_id`, `payment_id` or `event_id`",
}


class Action(Enum):
    """What a broken row rule leads to."""

    STOP = "stops the run"
    SET_ASIDE = "row set aside"
    REPLACE = "value replaced, counted"
    KEEP = "kept, counted"


@dataclass(frozen=True)
class Rule:
    """One row rule. `condition` is true where a row breaks it.

    Without `tables` it watches every table; with `each` it is repeated for every column chosen, `{column}`
    standing for its name. `instead` is the SQL that a replaced `column` gets.
    """

    name: str
    action: Action
    condition: str
    meaning: str
    detail: str = "NULL"
    tables: tuple[str, ...] = ()
    each: Callable[[Column], bool] | None = None
    column: str = ""
    instead: str = "NULL"


def _governing_date(column: Column) -> bool:
    """A date without which nobody can say when the row became visible."""
    return column.type == "DATE" and (column.required or column.name == "posted_date")


def _required_number(column: Column) -> bool:
    return column.type in (MONEY, "DOUBLE") and column.required


def _optional_value(column: Column) -> bool:
    return column.type != "VARCHAR" and not column.required and not _governing_date(column)


# In the order in which they are tried; a row is set aside under the first rule that it breaks.
ROW_RULES: tuple[Rule, ...] = (
    Rule(
        "unreadable_date",
        Action.SET_ASIDE,
        "given_{column} IS NOT NULL AND {column} IS NULL",
        "a required date, or `posted_date`, cannot be read as a date",
        "concat('{column}: ', given_{column})",
        each=_governing_date,
    ),
    Rule(
        "implausible_date",
        Action.SET_ASIDE,
        f"{{column}} < DATE '{EARLIEST}'",
        f"a required date, or `posted_date`, lies before {EARLIEST}",
        "concat('{column}: ', {column})",
        each=_governing_date,
    ),
    Rule(
        "unknown_invoice",
        Action.SET_ASIDE,
        "given_invoice_id IS NOT NULL AND _invoice_fate <> 'kept'",
        "a payment names an invoice that is not in `invoices`, or that was set aside itself",
        "concat(invoice_id, ': ', _invoice_fate)",
        tables=("payments",),
    ),
    Rule(
        "unknown_currency",
        Action.STOP,
        "_rate IS NULL AND currency NOT IN (SELECT currency FROM _daily_rates)",
        "a currency has no exchange rate at all before as_of",
        "currency",
        tables=("order_lines", "invoices"),
    ),
    Rule(
        "no_rate_yet",
        Action.SET_ASIDE,
        "_rate IS NULL AND {dated_by} IS NOT NULL",
        "the exchange rates of the currency begin after the date of the row (a missing day takes the latest "
        "earlier rate)",
        "concat(currency, ' on ', {dated_by})",
        tables=("order_lines", "invoices"),
    ),
    Rule(
        "implausible_amount",
        Action.SET_ASIDE,
        f"coalesce(abs({{column}}) > {LARGEST_AMOUNT}, given_{{column}} IS NOT NULL) "
        "AND isfinite(TRY_CAST(given_{column} AS DOUBLE))",
        "a required amount is larger than 10,000,000,000,000, up or down",
        "concat('{column}: ', given_{column})",
        each=_required_number,
    ),
    Rule(
        "unreadable_amount",
        Action.SET_ASIDE,
        "given_{column} IS NOT NULL AND {column} IS NULL",
        "a required number cannot be read, or is not finite",
        "concat('{column}: ', given_{column})",
        each=_required_number,
    ),
    Rule(
        "missing_value",
        Action.SET_ASIDE,
        "{column} IS NULL",
        "a required value is empty",
        "'{column}'",
        each=lambda column: column.required,
    ),
    Rule(
        "unknown_customer",
        Action.SET_ASIDE,
        "customer_id NOT IN (SELECT customer_id FROM _known_customers)",
        "a row names a customer that is not in `customers` (tried only where that table is given)",
        "customer_id",
        tables=(*OF_A_CUSTOMER, "overrides"),
    ),
    Rule(
        "implausible_due_date",
        Action.SET_ASIDE,
        f"due_date > invoice_date + {LONGEST_TERMS_DAYS}",
        "an invoice is due more than two years after its issue",
        "concat('due ', due_date, ', issued ', invoice_date)",
        tables=("invoices",),
    ),
    Rule(
        "dispute_closed_before_opened",
        Action.SET_ASIDE,
        "dispute_closed_date < dispute_opened_date",
        "a dispute ends before it begins",
        "concat('opened ', dispute_opened_date, ', closed ', dispute_closed_date)",
        tables=("invoices",),
    ),
    Rule(
        "unknown_event_kind",
        Action.SET_ASIDE,
        "kind NOT IN ('insolvency', 'write_off', 'blocked', 'released')",
        "a credit event is none of `insolvency`, `write_off`, `blocked`, `released`",
        "kind",
        tables=("credit_events",),
    ),
    Rule(
        "score_out_of_range",
        Action.SET_ASIDE,
        "score NOT BETWEEN 0 AND 100",
        "a judgement's score lies outside 0 to 100",
        "CAST(score AS VARCHAR)",
        tables=("judgements",),
    ),
    Rule(
        "unknown_criterion",
        Action.SET_ASIDE,
        "criterion NOT IN ({criteria})",
        f"a judgement is on none of {', '.join(f'`{name}`' for name in CRITERIA)}, nor on an own standard",
        "criterion",
        tables=("judgements",),
    ),
    Rule(
        "unknown_tier",
        Action.SET_ASIDE,
        "tier NOT IN ({tiers})",
        "an override names a tier that the policy does not have",
        "tier",
        tables=("overrides",),
    ),
    Rule(
        "nonpositive_rate",
        Action.SET_ASIDE,
        "rate <= 0",
        "an exchange rate is zero or negative",
        "concat(currency, ': ', rate)",
        tables=("exchange_rates",),
    ),
    Rule(
        "ends_before_start",
        Action.SET_ASIDE,
        "{last_day} < {dated_by}",
        "a membership, judgement or override ends before it begins",
        "concat({dated_by}, ' to ', {last_day})",
        tables=("account_links", "judgements", "overrides"),
    ),
    Rule(
        "unusable_optional_value",
        Action.REPLACE,
        "given_{column} IS NOT NULL AND {column} IS NULL",
        f"an optional date, number, flag or attribute cannot be read, is not finite, lies before {EARLIEST} or "
        "beyond 10,000,000,000,000: taken as empty",
        each=_optional_value,
    ),
    Rule(
        "unknown_dispute_fault",
        Action.REPLACE,
        "dispute_fault NOT IN ('seller', 'buyer')",
        "the fault of a dispute is neither `seller` nor `buyer`: taken as empty",
        tables=("invoices",),
        column="dispute_fault",
    ),
    Rule(
        "missing_due_date",
        Action.REPLACE,
        "due_date IS NULL",
        "no usable due date: issue plus `payment.default_terms_days`",
        tables=("invoices",),
        column="due_date",
        instead="invoice_date + {default_terms_days}",
    ),
    Rule(
        "due_before_issue",
        Action.REPLACE,
        "due_date < invoice_date",
        "due before issue, as invoices paid in advance are: taken as due at issue",
        tables=("invoices",),
        column="due_date",
        instead="invoice_date",
    ),
    Rule(
        "missing_event_quantity",
        Action.REPLACE,
        "quantity IS NULL",
        "a service event without a usable quantity: taken as one",
        tables=("service_events",),
        column="quantity",
        instead="1",
    ),
    Rule(
        "missing_currency",
        Action.KEEP,
        "{foreign} AND currency IS NULL",
        "no currency although the column is mapped: taken as the reporting currency",
        tables=("order_lines", "invoices"),
    ),
    Rule(
        "negative_line",
        Action.KEEP,
        "net_amount < 0",
        "a return, credit or cancellation: kept",
        tables=("order_lines",),
    ),
    Rule(
        "prepayment",
        Action.KEEP,
        "payment_date < _invoice_date",
        "paid before the invoice was issued: kept, counts as paid at issue",
        tables=("payments",),
    ),
    Rule(
        "late_posted",
        Action.KEEP,
        "posted_date > {dated_by}",
        "posted after its own date: visible from then on only",
        tables=FACTS,
    ),
)

# Breaches seen while reading or after the rows are in: no SQL over one row.
OTHER_SET_ASIDE: Mapping[str, str] = {
    "ragged_line": "a line of a text file has too many or too few fields, an open quote, or is not UTF-8",
    "exact_duplicate": "a row equals an earlier one in every mapped column (set aside only with "
    "`exact_duplicates: set_aside`, else kept and counted)",
}


@dataclass(frozen=True)
class BoundRule:
    """A row rule written out for one table, and one column where it is repeated."""

    rule: Rule
    condition: str
    detail: str
    column: str
    instead: str


def bound_rules(
    table: Table, config: Config, *, has_currency: bool, knows_customers: bool
) -> list[BoundRule]:
    """The row rules of `table`, in order, with the settings of `config` written in."""
    return list(_bound(table, config, has_currency, knows_customers))


def _bound(table: Table, config: Config, has_currency: bool, knows_customers: bool) -> Iterator[BoundRule]:
    names = {
        "dated_by": table.dated_by or "NULL",
        "last_day": "valid_to" if "valid_to" in table.names else "valid_until",
        "criteria": _listed((*CRITERIA, *config.standards)),
        "tiers": _listed((*config.tiers.names, *config.tiers.prospect_shares_ratio)),
        "default_terms_days": str(config.payment.default_terms_days),
        "foreign": str(has_currency),
    }
    for rule in ROW_RULES:
        if rule.tables and table.name not in rule.tables:
            continue
        if rule.name == "unknown_customer" and not knows_customers:
            continue
        if rule.each is None:
            columns: list[str] = [rule.column]
        else:
            columns = [column.name for column in table.columns if rule.each(column)]
        for column in columns:
            values = names | {"column": column}
            yield BoundRule(
                rule,
                rule.condition.format(**values),
                rule.detail.format(**values),
                column,
                rule.instead.format(**values),
            )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names)
