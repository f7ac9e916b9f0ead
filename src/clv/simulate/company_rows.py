"""Schema `company`: a block's facts as rows of the tables a company would have."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clv.simulate import catalogue as words
from clv.simulate import receivables, relations
from clv.simulate.block import Block, World, stream
from clv.simulate.columns import dates, keys, money, strings
from clv.simulate.ids import customer_ids, group_ids, invoice_ids, order_ids, row_keys
from clv.simulate.timeline import Timeline

SALES_REPS = (
    "A. Berger",
    "B. Costa",
    "C. Dubois",
    "D. Eriksen",
    "Э. Фёдорова",
    "F. García",
    "G. Hoang",
    "李 明",
)
SALES_STATUS = ("new", "contacted", "won", "lost", "dormant")
NEW, CONTACTED, WON, LOST, DORMANT = range(5)


def shared_rows(world: World) -> list[tuple[str, pa.Table]]:
    """(table, rows) of what belongs to no account: products and exchange rates (EUR per USD, daily)."""
    products = world.catalogue
    number = np.arange(len(products.category)) + 1
    category = strings(words.CATEGORIES, products.category)
    # Every other service has no ratio of its own, so that only a ratio of the category can price it.
    by_category_alone = products.is_service & (number % 2 == 0)
    product_rows = pa.table(
        {
            "product_id": keys("P", number, 4),
            "name": pc.binary_join_element_wise(category, pc.cast(pa.array(number), pa.string()), " "),
            "category": category,
            "unit_cost": pa.array(products.unit_cost_eur, mask=products.is_service),
            "contribution_margin_ratio": pa.array(products.margin_ratio, mask=by_category_alone),
        }
    )
    days = np.arange(world.timeline.end)
    rate_rows = pa.table(
        {
            "currency": pa.array(["USD"] * len(days)),
            "rate_date": dates(world.timeline, days),
            "rate": world.eur_per_usd,
        }
    )
    return [("products", product_rows), ("exchange_rates", rate_rows)]


def company_rows(world: World, block: Block) -> list[tuple[str, pa.Table]]:
    """(table, rows) of the block."""
    timeline, customers = world.timeline, customer_ids(block)
    currencies = pa.array(["EUR", "USD"]).take(pa.array(block.accounts.currency_is_usd.astype(np.int64)))
    return [
        ("customers", _customers(world, block, customers)),
        ("order_lines", _order_lines(timeline, block, customers, currencies)),
        ("invoices", _invoices(timeline, block, customers, currencies)),
        ("invoices", _credit_notes(timeline, block, customers, currencies)),
        ("payments", _payments(timeline, block)),
        ("service_events", _service_events(timeline, block, customers)),
        ("credit_events", _credit_events(timeline, block, customers)),
        ("account_links", _account_links(timeline, block, customers)),
        ("judgements", _judgements(timeline, block, customers)),
    ]


def _customers(world: World, block: Block, customers: pa.Array) -> pa.Table:
    accounts, timeline = block.accounts, world.timeline
    undecided = stream(world, "sales_status", block.number).random(len(accounts))
    unsold = np.select([undecided < 0.5, undecided < 0.8], [LOST, CONTACTED], NEW)
    sold = np.where(accounts.dropout_time < timeline.end, DORMANT, WON)
    status = np.where(accounts.conversion_time < timeline.end, sold, unsold)
    return pa.table(
        {
            "customer_id": customers,
            "name": _names(world, block),
            "first_contact_date": dates(timeline, np.floor(accounts.contact_time).astype(np.int64)),
            "account_group_id": group_ids(block).take(pa.array(block.group, mask=block.group == 0)),
            "sales_rep": strings(SALES_REPS, block.sales_rep),
            "is_natural_person": accounts.is_natural_person,
            "industry": strings(words.INDUSTRIES, accounts.industry),
            "region": strings(words.REGIONS, accounts.region),
            "country": strings(tuple(country[0] for country in words.COUNTRIES), accounts.country),
            "employee_count": pa.array(accounts.employees, mask=~accounts.employees_known),
            "lead_source": strings(words.LEAD_SOURCES, accounts.lead_source),
            "web_visits_before_contact": accounts.web_visits,
            "requested_quote": accounts.requested_quote,
            "sales_status": strings(SALES_STATUS, status),
        }
    )


def _names(world: World, block: Block) -> pa.Array:
    """Names in the script of the country; in the first block every fifth is awkward until those are used up."""
    accounts, n = block.accounts, len(block.accounts)
    scripts = tuple(words.NAME_PARTS)
    script = np.array([scripts.index(country[3]) for country in words.COUNTRIES])[accounts.country]
    script = np.where(accounts.is_natural_person, scripts.index("person"), script)
    parts = []
    for part, draw in enumerate(stream(world, "names", block.number).random((3, n))):
        pools = [words.NAME_PARTS[name][part] for name in scripts]
        sizes = np.array([len(pool) for pool in pools])
        first = np.cumsum(sizes) - sizes
        every_word = tuple(word for pool in pools for word in pool)
        parts.append(strings(every_word, first[script] + np.floor(draw * sizes[script]).astype(np.int64)))
    names = pc.utf8_trim_whitespace(pc.binary_join_element_wise(*parts, " "))
    if block.number:
        return names
    place = np.arange(n)
    position = (place - 2) // 5
    missing = (place % 5 != 2) | (position >= len(words.AWKWARD_NAMES))
    return pc.coalesce(strings(words.AWKWARD_NAMES, np.where(missing, 0, position), missing), names)


def _order_lines(timeline: Timeline, block: Block, customers: pa.Array, currencies: pa.Array) -> pa.Table:
    lines = block.lines
    account = pa.array(block.orders.account[lines.order])
    return pa.table(
        {
            "line_id": row_keys(block, "L", len(lines.order)),
            "order_id": order_ids(block).take(pa.array(lines.order)),
            "customer_id": customers.take(account),
            "order_date": dates(timeline, lines.day),
            "product_id": keys("P", lines.product + 1, 4),
            "quantity": lines.quantity,
            "net_amount": money(lines.cents),
            "unit_cost": pa.array(lines.unit_cost, mask=~lines.has_unit_cost),
            "currency": currencies.take(account),
            "posted_date": dates(timeline, lines.posted_day),
        }
    )


def _invoices(timeline: Timeline, block: Block, customers: pa.Array, currencies: pa.Array) -> pa.Table:
    invoices = block.invoices
    issued = np.flatnonzero(invoices.day < timeline.end)
    account, opened = pa.array(invoices.account[issued]), invoices.dispute_opened_day[issued]
    closed = invoices.dispute_closed_day[issued]
    undisputed = opened >= timeline.end
    fault = invoices.is_sellers_fault[issued].astype(np.int64)
    return pa.table(
        {
            "invoice_id": invoice_ids(block).take(pa.array(issued)),
            "customer_id": customers.take(account),
            "order_id": order_ids(block).take(pa.array(invoices.order[issued])),
            "invoice_date": dates(timeline, invoices.day[issued]),
            "due_date": dates(timeline, invoices.due_day[issued]),
            "amount": money(invoices.cents[issued]),
            "currency": currencies.take(account),
            "dispute_opened_date": dates(timeline, opened, undisputed),
            "dispute_closed_date": dates(timeline, closed, undisputed | (closed >= timeline.end)),
            "dispute_fault": strings(("buyer", "seller"), fault, undisputed),
        }
    )


def _credit_notes(timeline: Timeline, block: Block, customers: pa.Array, currencies: pa.Array) -> pa.Table:
    known = np.flatnonzero(block.credits.day < timeline.end)
    invoice, day = block.credits.invoice[known], block.credits.day[known]
    account = pa.array(block.invoices.account[invoice])
    return pa.table(
        {
            "invoice_id": row_keys(block, "N", len(known)),
            "customer_id": customers.take(account),
            "order_id": order_ids(block).take(pa.array(block.invoices.order[invoice])),
            "invoice_date": dates(timeline, day),
            "due_date": dates(timeline, day),
            "amount": money(-block.credits.cents[known]),
            "currency": currencies.take(account),
            "credited_invoice_id": invoice_ids(block).take(pa.array(invoice)),
        }
    )


def _payments(timeline: Timeline, block: Block) -> pa.Table:
    payments = block.payments
    on_time = payments.reason == receivables.NO_REASON
    return pa.table(
        {
            "payment_id": row_keys(block, "Z", len(payments.invoice)),
            "invoice_id": invoice_ids(block).take(pa.array(payments.invoice)),
            "payment_date": dates(timeline, payments.day),
            "amount": money(payments.cents),
            "delay_reason": strings(receivables.REASONS, np.where(on_time, 0, payments.reason), on_time),
        }
    )


def _service_events(timeline: Timeline, block: Block, customers: pa.Array) -> pa.Table:
    events = block.services
    return pa.table(
        {
            "event_id": row_keys(block, "S", len(events.account)),
            "customer_id": customers.take(pa.array(events.account)),
            "event_date": dates(timeline, events.day),
            "activity": strings(relations.ACTIVITIES, events.kind),
            "quantity": events.quantity,
        }
    )


def _credit_events(timeline: Timeline, block: Block, customers: pa.Array) -> pa.Table:
    events = block.credit_events
    return pa.table(
        {
            "event_id": row_keys(block, "E", len(events.account)),
            "customer_id": customers.take(pa.array(events.account)),
            "event_date": dates(timeline, events.day),
            "kind": strings(relations.CREDIT_EVENTS, events.kind),
        }
    )


def _account_links(timeline: Timeline, block: Block, customers: pa.Array) -> pa.Table:
    links = block.links
    return pa.table(
        {
            "customer_id": customers.take(pa.array(links.account)),
            "account_group_id": group_ids(block).take(pa.array(links.group)),
            "valid_from": dates(timeline, links.first_day),
            "valid_to": dates(timeline, links.last_day, links.last_day >= timeline.end),
        }
    )


def _judgements(timeline: Timeline, block: Block, customers: pa.Array) -> pa.Table:
    judged = block.judgements
    return pa.table(
        {
            "customer_id": customers.take(pa.array(judged.account)),
            "criterion": strings(("prospect",), np.zeros(len(judged.account), dtype=np.int64)),
            "score": judged.score,
            "judged_by": strings(SALES_REPS, judged.judge),
            "judged_date": dates(timeline, judged.day),
            "valid_until": dates(timeline, judged.last_day),
            "note": strings(relations.NOTES, judged.note),
        }
    )
