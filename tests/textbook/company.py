"""The population of the worked cases as a company has it: orders, invoices and payments of 2024 and 2025.

Every customer of `population.csv` gets facts that make its yearly orders and its margin exactly those of the file;
all by formula, nothing drawn. The row number in the file (`place`, from 0) gives each customer habits of its own:

- An order a month, on a day of its own; of the 91 without a name every fourth (place 3, 7, …) orders every second
  month, every tenth begins in July 2024 and every other tenth stops after June 2025. In 2024 those 91 ordered 80 to
  120 % of what they ordered in 2025, the named nine as much.
- Each order is one line of units at 100, whose unit cost leaves the margin, and one invoice at 30 days.
- Each invoice is paid in one payment, so many days beyond terms as the file says, give or take 11 days among the 91.
  The large customer in arrears is the exception: always on time, but for one invoice that it leaves unpaid.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

NUMBERS = Path(__file__).parent / "population.csv"
FIRST_YEAR, LAST_YEAR = 2024, 2025
MONTHS = 24
UNIT_PRICE = 100
TERMS_DAYS = 30
IN_ARREARS = "large_orders_in_arrears"
UNPAID_MONTH = 20  # September 2025: due in October, more than 30 days overdue at the end of the year

TABLES = {
    "order_lines": ("order_id", "customer_id", "order_date", "net_amount", "quantity", "unit_cost"),
    "invoices": ("invoice_id", "customer_id", "invoice_date", "due_date", "amount"),
    "payments": ("invoice_id", "payment_date", "amount"),
}
Row = tuple[str | date | Decimal, ...]


def write(folder: Path) -> None:
    """A CSV file per table of the company into `folder`."""
    with NUMBERS.open(encoding="utf-8", newline="") as file:
        customers = list(csv.DictReader(file))
    rows: dict[str, list[Row]] = {name: [] for name in TABLES}
    for place, customer in enumerate(customers):
        for name, row in _facts(place, customer):
            rows[name].append(row)
    for name, header in TABLES.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows[name]])


def _facts(place: int, customer: dict[str, str]) -> Iterator[tuple[str, Row]]:
    """(table, row) for every fact of one customer."""
    customer_id = customer["customer_id"]
    is_named = not customer_id.startswith("C")
    unit_cost = UNIT_PRICE * (1 - Decimal(customer["contribution_margin_ratio"]))
    habit_days = 0 if customer_id == IN_ARREARS else int(customer["mean_days_beyond_terms"])
    last_year = Decimal(customer["order_amount"])
    first_year = last_year if is_named else last_year * (80 + 4 * (3 * place % 11)) / 100
    months = range(MONTHS) if is_named else _months(place)
    amounts = [
        *_split(first_year, sum(month < 12 for month in months)),
        *_split(last_year, sum(month >= 12 for month in months)),
    ]
    for month, amount in zip(months, amounts, strict=True):
        bill = f"{customer_id}-{month:02}"
        day = date(FIRST_YEAR + month // 12, month % 12 + 1, 1 + 5 * place % 27)
        due = day + timedelta(days=TERMS_DAYS)
        yield "order_lines", (bill, customer_id, day, amount, amount / UNIT_PRICE, unit_cost)
        yield "invoices", (bill, customer_id, day, due, amount)
        if (customer_id, month) == (IN_ARREARS, UNPAID_MONTH):
            continue
        swing_days = 0 if is_named else (11 * place + 7 * month) % 23 - 11
        yield "payments", (bill, due + timedelta(days=habit_days + swing_days), amount)


def _months(place: int) -> range:
    """Months with an order, 0 = January 2024, of a customer without a name."""
    return range(6 if place % 10 == 2 else 0, 18 if place % 10 == 8 else MONTHS, 2 if place % 4 == 3 else 1)


def _split(amount: Decimal, count: int) -> Iterable[Decimal]:
    """`amount` in `count` parts as equal as whole cents allow."""
    cents = int(amount * 100)
    return (Decimal(cents * (i + 1) // count - cents * i // count) / 100 for i in range(count))
