"""Schema `truth`: the true parameters and expectations as rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from clv.simulate import truth
from clv.simulate.block import STANDING_RATIO, Block, World
from clv.simulate.columns import dates
from clv.simulate.ids import customer_ids, invoice_ids
from clv.simulate.receivables import late_payment_probability
from clv.simulate.timeline import Flags, Floats, Ints, Timeline

CONVERSION_DAYS = 90
LABELLED_MONTH = -12  # months from the first graded one: the twelve months after it are all facts


def truth_rows(world: World, block: Block) -> list[tuple[str, pa.Table]]:
    """(table, rows) of the block."""
    timeline = world.timeline
    graded = range(max(timeline.future_months, 1))
    rows = [("customers", _customers(timeline, block)), ("invoices", _invoices(timeline, block))]
    rows += [
        ("customer_months", _customer_months(timeline, block, month)) for month in (LABELLED_MONTH, *graded)
    ]
    rows += [("prospects", _prospects(timeline, block, month)) for month in graded]
    return rows


def _customers(timeline: Timeline, block: Block) -> pa.Table:
    accounts = block.accounts
    late = late_payment_probability(block.late_regime, accounts.late_scale_days[:, None])
    return pa.table(
        {
            "customer_id": customer_ids(block),
            "first_order_date": _date_in_time(timeline, accounts.conversion_time),
            "dropout_date": _date_in_time(timeline, accounts.dropout_time),
            "order_rate_per_year": accounts.order_rate,
            "dropout_rate_per_year": accounts.dropout_rate,
            "mean_order_value_eur": block.order_value,
            "contribution_margin_ratio": block.order_margin / block.order_value,
            "discount_ratio": accounts.discount_ratio,
            "return_ratio": accounts.return_ratio,
            "late_tendency": late.mean(axis=1),
        }
    )


def _date_in_time(timeline: Timeline, time: Floats) -> pa.Array:
    missing: Flags = time >= timeline.end
    return dates(timeline, np.floor(np.where(missing, 0.0, time)).astype(np.int64), missing)


def _invoices(timeline: Timeline, block: Block) -> pa.Table:
    invoices = block.invoices
    judged = (invoices.day < timeline.end) & ~invoices.is_cancelled
    return pa.table(
        {
            "invoice_id": invoice_ids(block).filter(pa.array(judged)),
            "late_payment_probability": invoices.late_probability[judged],
        }
    )


def _customer_months(timeline: Timeline, block: Block, month: int) -> pa.Table:
    accounts, orders, as_of = block.accounts, block.orders, timeline.month_day(month)
    last_order = np.full(len(accounts), np.nan)
    before = orders.time < as_of
    last_order[orders.account[before]] = orders.time[before]  # sorted by time: the last one stays
    row = np.flatnonzero(~np.isnan(last_order))
    rate, dropout = accounts.order_rate[row], accounts.dropout_rate[row]
    is_alive = accounts.dropout_time[row] >= as_of
    alive = truth.alive_probability(timeline, rate, dropout, last_order[row], as_of)
    discounted = STANDING_RATIO * truth.expected_orders(timeline, rate, dropout, month, discounted=True)
    column = timeline.history_months + month
    late = late_payment_probability(
        block.late_regime[row, column : column + 3], accounts.late_scale_days[row, None]
    )
    return pa.table(
        {
            "as_of_date": _as_of(timeline, as_of, row),
            "customer_id": customer_ids(block).take(pa.array(row)),
            "is_alive": is_alive,
            "alive_probability": alive,
            "expected_orders_12m": alive
            * truth.expected_orders(timeline, rate, dropout, month, discounted=False),
            "expected_net_revenue_12m": alive * discounted * block.order_value[row],
            "expected_contribution_12m": alive * discounted * block.order_margin[row],
            "expected_contribution_12m_given_alive": is_alive * discounted * block.order_margin[row],
            "late_payment_probability": late.mean(axis=1),
        }
    )


def _prospects(timeline: Timeline, block: Block, month: int) -> pa.Table:
    accounts, as_of = block.accounts, timeline.month_day(month)
    row = np.flatnonzero((accounts.contact_time < as_of) & (accounts.conversion_time >= as_of))
    chance = truth.conversion_probability(accounts, as_of, CONVERSION_DAYS)[row]
    value = block.value_after_conversion[row]
    return pa.table(
        {
            "as_of_date": _as_of(timeline, as_of, row),
            "customer_id": customer_ids(block).take(pa.array(row)),
            "conversion_probability_90d": chance,
            "expected_contribution_12m_given_conversion": value,
            "expected_net_revenue_12m": chance * block.revenue_after_conversion[row],
            "expected_contribution_12m": chance * value,
        }
    )


def _as_of(timeline: Timeline, day: int, row: Ints) -> pa.Array:
    return dates(timeline, np.full(len(row), day, dtype=np.int64))
