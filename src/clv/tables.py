"""The vocabulary: every table that is read or written, with columns, types, keys and meaning.

A column is named once, here. Facts arrive under these names (`ingest`), results leave under them (`publish`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from clv.errors import PublishError

if TYPE_CHECKING:
    import pandas as pd

MONEY = "DECIMAL(18,4)"


@dataclass(frozen=True)
class Column:
    """One column: its SQL type in DuckDB's dialect, whether it must be there, and what it means."""

    name: str
    type: str
    required: bool
    meaning: str


@dataclass(frozen=True)
class Table:
    """One table: what a row is, its key, and for facts the date by which a row becomes visible.

    `blank_if_later` names columns that are dates of later events on the same row (a dispute's end): they are
    null for anybody who looks before that date, together with the columns listed behind them.
    """

    name: str
    row: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    dated_by: str | None = None
    blank_if_later: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def ddl(self) -> str:
        """Column definitions for CREATE TABLE."""
        return ", ".join(f'"{column.name}" {column.type}' for column in self.columns)


def _columns(text: str) -> tuple[Column, ...]:
    """Columns from lines `name[*] TYPE meaning`, `*` marking a required one."""
    columns = []
    for line in text.strip().splitlines():
        name, kind, *meaning = line.split(maxsplit=2)
        columns.append(Column(name.rstrip("*"), kind, name.endswith("*"), meaning[0] if meaning else ""))
    return tuple(columns)


def _by_name(*tables: Table) -> Mapping[str, Table]:
    return MappingProxyType({table.name: table for table in tables})


CORE: Mapping[str, Table] = _by_name(
    Table(
        "customers",
        "customer or prospect (a customer without an order before as_of)",
        _columns("""
            customer_id*       VARCHAR  the company's own identifier, kept as text
            name               VARCHAR  shown to sales, never logged
            first_contact_date DATE     when the company first heard of the customer
            account_group_id   VARCHAR  the group of accounts it belongs to
            sales_rep          VARCHAR  who looks after the customer
            is_natural_person  BOOLEAN  a person rather than a firm
            valid_from         DATE     since when this row was known; without it the row is "as known today"
        """),
        key=("customer_id",),
    ),
    Table(
        "order_lines",
        "line of an order, return or cancellation",
        _columns(f"""
            line_id     VARCHAR  the company's key of the line, if it has one
            order_id*   VARCHAR  order the line belongs to
            customer_id* VARCHAR who ordered
            order_date* DATE     day of the order
            net_amount* {MONEY}  value without tax in `currency`, then in the reporting currency; negative = return
            product_id  VARCHAR  product sold
            quantity    {MONEY}  units, negative for returns
            unit_cost   {MONEY}  product cost per unit, in the currency of the line
            currency    VARCHAR  ISO code
            posted_date DATE     when the line became known, if later than order_date
        """),
        key=("line_id",),
        dated_by="order_date",
    ),
    Table(
        "products",
        "product",
        _columns(f"""
            product_id* VARCHAR  the company's own identifier
            name        VARCHAR  product name
            category    VARCHAR  product category
            unit_cost   {MONEY}  product cost per unit in the reporting currency
            contribution_margin_ratio DOUBLE margin after product cost / net amount
        """),
        key=("product_id",),
    ),
    Table(
        "invoices",
        "invoice or credit note",
        _columns(f"""
            invoice_id*  VARCHAR  the company's own identifier
            customer_id* VARCHAR  who owes
            invoice_date* DATE    day of issue
            due_date     DATE     last day within terms; from `payment.default_terms_days` where missing
            amount*      {MONEY}  amount; negative = credit note
            currency     VARCHAR  ISO code
            credited_invoice_id VARCHAR invoice a credit note is netted within
            dispute_opened_date DATE   when the customer disputed it
            dispute_closed_date DATE   when the dispute ended
            dispute_fault VARCHAR  `seller` or `buyer`
            posted_date  DATE     when it became known, if later than invoice_date
        """),
        key=("invoice_id",),
        dated_by="invoice_date",
        blank_if_later={"dispute_opened_date": ("dispute_fault",), "dispute_closed_date": ("dispute_fault",)},
    ),
    Table(
        "payments",
        "payment or instalment",
        _columns(f"""
            payment_id   VARCHAR  the company's key of the payment, if it has one
            invoice_id*  VARCHAR  invoice paid
            payment_date* DATE    day the money arrived
            amount*      {MONEY}  amount in the invoice's currency
            delay_reason VARCHAR  why it came late, as recorded
            posted_date  DATE     when it became known, if later than payment_date
        """),
        key=("payment_id",),
        dated_by="payment_date",
    ),
    Table(
        "service_events",
        "service rendered to a customer",
        _columns(f"""
            event_id     VARCHAR  the company's key of the event, if it has one
            customer_id* VARCHAR  who was served
            event_date*  DATE     day of service
            activity*    VARCHAR  what was done; priced by `contribution.service_rates`
            quantity     {MONEY}  units of the activity, 1 where missing
            posted_date  DATE     when it became known, if later than event_date
        """),
        key=("event_id",),
        dated_by="event_date",
    ),
    Table(
        "credit_events",
        "credit event",
        _columns("""
            event_id     VARCHAR  the company's key of the event, if it has one
            customer_id* VARCHAR  whose
            event_date*  DATE     day of the event
            kind*        VARCHAR  `insolvency`, `write_off`, `blocked` or `released`
            posted_date  DATE     when it became known, if later than event_date
        """),
        key=("event_id",),
        dated_by="event_date",
    ),
    Table(
        "account_links",
        "membership of a customer in an account group, with its time",
        _columns("""
            customer_id*      VARCHAR member
            account_group_id* VARCHAR group
            valid_from*       DATE    first day of the membership
            valid_to          DATE    last day, null while it lasts
        """),
        dated_by="valid_from",
        blank_if_later={"valid_to": ()},
    ),
    Table(
        "judgements",
        "human judgement of one customer on one criterion",
        _columns("""
            customer_id* VARCHAR  who is judged
            criterion*   VARCHAR  what is judged
            score*       DOUBLE   0 to 100
            judged_by*   VARCHAR  who judged
            judged_date* DATE     when
            valid_until  DATE     last day it counts
            note         VARCHAR  free text
        """),
        dated_by="judged_date",
    ),
    Table(
        "overrides",
        "tier set by hand",
        _columns("""
            customer_id*  VARCHAR whose tier
            tier*         VARCHAR tier given
            decided_by*   VARCHAR who decided
            decided_date* DATE    when
            valid_until*  DATE    last day it counts
            reason*       VARCHAR why
        """),
        dated_by="decided_date",
    ),
    Table(
        "exchange_rates",
        "rate of one currency on one day",
        _columns("""
            currency*  VARCHAR  ISO code
            rate_date* DATE     day
            rate*      DOUBLE   reporting currency per unit of `currency`
        """),
        key=("currency", "rate_date"),
        dated_by="rate_date",
    ),
)

CRITERIA = (
    *("lifetime_value", "payment", "payment_record", "contribution", "order_amount"),
    *("economic_value", "prospect"),
)

_EACH = "as_of_date DATE month graded\nrun_id VARCHAR run that wrote the row\n"

PUBLISHED: Mapping[str, Table] = _by_name(
    Table(
        "grades",
        "customer or prospect",
        _columns(
            _EACH
            + f"""customer_id* VARCHAR the company's identifier
            value_source* VARCHAR `history` or `prospect`
            value_basis VARCHAR `contribution` or `revenue`
            clv {MONEY} expected discounted value over the horizon
            clv_low {MONEY} lower end of the 80 % interval
            clv_high {MONEY} upper end of the 80 % interval
            probability_active DOUBLE still buying (0-1)
            expected_orders DOUBLE orders expected over the horizon
            late_payment_probability DOUBLE P(later than payment.late_after_days beyond terms), amount-weighted
            expected_days_late DOUBLE restricted mean of days beyond terms, 0 to 180
            amount_at_risk {MONEY} next 90 days of billing and open balance x late_payment_probability
            on_time_share_ratio DOUBLE share of last year's settled amount paid within terms
            mean_days_beyond_terms DOUBLE amount-weighted, last year
            main_delay_reason VARCHAR most frequent reason of last year
            order_amount {MONEY} net orders (or units) of the window of `order_amount.months`
            contribution_margin {MONEY} of the last 12 months
            contribution_margin_ratio DOUBLE contribution_margin / net revenue of the last 12 months
            late_money_cost {MONEY} capital cost of late money and expected credit loss, last 12 months
            prospect_value {MONEY} conversion probability x value given conversion
            prospect_value_low {MONEY} lower end of the 80 % interval
            prospect_value_high {MONEY} upper end of the 80 % interval
            prospect_valid_until DATE last day the prospect's score is good
            conversion_probability DOUBLE first order within prospect.conversion_days
            coverage_ratio DOUBLE weight measured / weight switched on
            composite_score DOUBLE 0-100
            composite_baseline DOUBLE score of the reference customer over the same criteria
            composite_rank INTEGER 1 = best among the graded of the same value_source
            composite_percentile DOUBLE share of the graded ranked below (0-1)
            tier_edge_score DOUBLE lowest composite_score at which the tier is kept
            tier* VARCHAR never null
            policy_tier VARCHAR by rank alone, before gates and stability
            previous_tier VARCHAR of the month before; null for new ones and when value_source changed
            tier_change VARCHAR `new`, `up`, `same`, `down`
            tier_rule VARCHAR which rule decided
            firmness_ratio DOUBLE P(same tier next month)
            is_provisional BOOLEAN coverage below composite.minimum_coverage_ratio
            quadrant VARCHAR size x loyalty
            has_upgrade_potential BOOLEAN could reach the next tier
            account_group_id VARCHAR group as of the date
            group_tier VARCHAR tier of the group
            segment VARCHAR peer group
            cluster VARCHAR learned group of similar customers
            lifetime_value_version VARCHAR registered model that spoke
            payment_delay_version VARCHAR registered model that spoke
            prospect_value_version VARCHAR registered model that spoke
            grading_version VARCHAR registered scaling"""
        ),
        key=("customer_id",),
    ),
    Table(
        "criteria",
        "customer x criterion",
        _columns(
            _EACH
            + """customer_id* VARCHAR whose
            criterion* VARCHAR one of the standards
            value DOUBLE as measured, in the criterion's unit
            score DOUBLE 0-100
            percentile DOUBLE share of the graded with a lower score (0-1)
            weight DOUBLE share of the composite after re-weighting; 0 where shown only
            why VARCHAR when not measured, or measured by a fallback; of a prospect who judged"""
        ),
        key=("customer_id", "criterion"),
    ),
    Table(
        "value_outlook",
        "customer x horizon",
        _columns(
            _EACH
            + f"""customer_id* VARCHAR whose
            horizon_months* INTEGER months ahead
            clv {MONEY} expected discounted value
            clv_low {MONEY} lower end of the 80 % interval
            clv_high {MONEY} upper end of the 80 % interval
            is_extrapolation BOOLEAN beyond what was validated"""
        ),
        key=("customer_id", "horizon_months"),
    ),
    Table(
        "reasons",
        "customer x position",
        _columns(
            _EACH
            + """customer_id* VARCHAR whose
            position* INTEGER 1 = strongest; the last row holds the rest
            direction* VARCHAR `for` or `against`
            criterion VARCHAR standard the points belong to
            concept* VARCHAR what is said; `other` = the rest
            points* DOUBLE points of the composite against the reference customer
            template_id VARCHAR sentence template
            values VARCHAR JSON filled into the template
            fact VARCHAR the customer's own
            peer_fact VARCHAR the peers'
            sentence* VARCHAR in the configured language"""
        ),
        key=("customer_id", "position"),
    ),
    Table(
        "changes",
        "customer x block",
        _columns(
            _EACH
            + """customer_id* VARCHAR whose
            block* VARCHAR `facts`, `peers`, `model`, `policy` or `coverage`
            points* DOUBLE change of the distance to the tier edge
            template_id VARCHAR sentence template
            values VARCHAR JSON filled into the template
            sentence VARCHAR in the configured language"""
        ),
        key=("customer_id", "block"),
    ),
    Table(
        "paths",
        "customer x lever",
        _columns(
            _EACH
            + """customer_id* VARCHAR whose
            lever* VARCHAR what would have to change
            amount DOUBLE by how much, in the lever's unit
            target_tier VARCHAR tier reached
            sentence VARCHAR in the configured language"""
        ),
        key=("customer_id", "lever"),
    ),
    Table(
        "tier_summary",
        "tier of customers or prospects",
        _columns(
            _EACH
            + f"""value_source* VARCHAR `history` or `prospect`
            tier* VARCHAR tier
            position INTEGER 1 = highest
            is_key BOOLEAN marked so in the policy
            customers INTEGER how many
            share_of_customers_ratio DOUBLE of those in the counts
            revenue {MONEY} net value of the last 12 months
            share_of_revenue_ratio DOUBLE of all revenue
            contribution_margin {MONEY} of the last 12 months
            share_of_contribution_ratio DOUBLE of all contribution
            clv {MONEY} expected value (prospects: prospect_value)
            share_of_clv_ratio DOUBLE of all expected value"""
        ),
        key=("value_source", "tier"),
    ),
    Table(
        "month_facts",
        "named figure of the month",
        _columns(
            _EACH
            + """name* VARCHAR what
            value DOUBLE figure
            detail VARCHAR in words"""
        ),
        key=("name",),
    ),
    Table(
        "invoice_outlook",
        "open invoice",
        _columns(
            _EACH
            + f"""invoice_id* VARCHAR the company's identifier
            customer_id* VARCHAR who owes
            amount_open {MONEY} reporting currency
            days_open INTEGER since issue
            late_payment_probability DOUBLE given that it is still open
            expected_payment_date DATE when it will probably be paid"""
        ),
        key=("invoice_id",),
    ),
    Table(
        "rejected_rows",
        "row set aside",
        _columns(
            _EACH
            + """table_name* VARCHAR core table
            row_key VARCHAR key of the row, or file and line
            rule* VARCHAR rule it broke
            detail VARCHAR what was found"""
        ),
    ),
    Table(
        "runs",
        "run of a program",
        _columns(
            _EACH
            + """kind VARCHAR `score` or `train`
            status VARCHAR `published`, `unchanged`, `trained`, `failed`
            started_at TIMESTAMP UTC
            finished_at TIMESTAMP UTC
            config_hash VARCHAR SHA-256 of the resolved configuration
            code_version VARCHAR version of the package
            mlflow_run_id VARCHAR training run of the models used
            content_hash VARCHAR hash of all published rows, by which equal content is recognised
            row_counts VARCHAR JSON: rows per table
            why VARCHAR JSON: criteria switched off, fallbacks, warnings"""
        ),
        key=("run_id",),
    ),
)


def check(frame: pd.DataFrame, table: Table) -> pd.DataFrame:
    """`frame` with exactly the columns of `table` in its order: absent ones null, unknown ones refused.

    Raises PublishError where a key repeats, or a required column is missing or null.
    """
    unknown = sorted(set(frame.columns) - set(table.names))
    if unknown:
        raise PublishError(f"{table.name}: unknown columns {unknown}; the vocabulary is clv/tables.py.")
    for column in table.columns:
        if not column.required:
            continue
        if column.name not in frame.columns:
            raise PublishError(f"{table.name}: column {column.name} is required and absent.")
        nulls = frame[column.name].isna()
        if nulls.any():
            raise PublishError(
                f"{table.name}.{column.name}: expected a value in every row, found {int(nulls.sum())} nulls."
            )
    if table.key:
        repeated = frame.duplicated(list(table.key))
        if repeated.any():
            first = frame.loc[repeated, list(table.key)].head(3).to_dict("records")
            raise PublishError(
                f"{table.name}: expected one row per {table.row}, found {int(repeated.sum())} repeated keys, "
                f"first {first}."
            )
    return frame.reindex(columns=list(table.names))
