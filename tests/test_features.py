"""Every feature against a slow and obvious twin, and the rules of time and value by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from itertools import pairwise
from math import isnan, sqrt
from typing import Any, NamedTuple

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from clv.config import Config
from clv.contribution import price_lines
from clv.features import FEATURES, HALF_LIVES_DAYS, WINDOWS_DAYS, customer_features, segment_of, segment_sql
from clv.period import add_months
from clv.tables import CORE
from clv.warehouse import Engine, workspace

AS_OF = date(2025, 3, 1)
HORIZON_DAYS = 180
BESIDE = (
    "frequency",
    "recency_days",
    "T_days",
    "order_count",
    "mean_order_value",
    "revenue_365",
    "order_amount",
)


def configured(**sections: Any) -> Config:
    return Config.model_validate(
        {
            "company": "x",
            "reporting_currency": "EUR",
            "sources": {"customers": {"path": "c.csv"}, "order_lines": {"path": "l.csv"}},
            "contribution": {
                "default_margin_ratio": 0.3,
                "order_cost": 12,
                "line_cost": 1.5,
                "freight_ratio": 0.03,
            },
            **sections,
        }
    )


CONFIG = configured()
CATEGORIES = {"p1": "tools", "p2": "tools", "p3": "paint"}


class Line(NamedTuple):
    """One order line, `day` counted from AS_OF (negative: before)."""

    customer_id: str
    day: int
    net_amount: float = 100.0
    posted_day: int | None = None
    order_id: str = "o"
    product_id: str | None = "p1"
    quantity: float | None = 1.0


class Event(NamedTuple):
    customer_id: str
    day: int
    posted_day: int | None = None


def on(day: int | None) -> date | None:
    return None if day is None else AS_OF + timedelta(days=day)


def fill(db: Engine, lines: Sequence[Line], events: Sequence[Event] = ()) -> None:
    for table in CORE.values():
        db.run(f"CREATE OR REPLACE TABLE main.{table.name} ({table.ddl()})")
    for product, category in CATEGORIES.items():
        db.run("INSERT INTO main.products (product_id, category) VALUES (?, ?)", [product, category])
    for line in lines:
        row = line._asdict() | {"day": on(line.day), "posted_day": on(line.posted_day)}
        db.run(
            "INSERT INTO main.order_lines (customer_id, order_date, net_amount, posted_date, order_id, product_id, "
            "quantity) VALUES (?, ?, ?, ?, ?, ?, ?)",
            list(row.values()),
        )
    for event in events:
        db.run(
            "INSERT INTO main.service_events (activity, customer_id, event_date, posted_date) "
            "VALUES ('visit', ?, ?, ?)",
            [event.customer_id, on(event.day), on(event.posted_day)],
        )


def features(
    db: Engine, lines: Sequence[Line], events: Sequence[Event] = (), config: Config = CONFIG
) -> pd.DataFrame:
    fill(db, lines, events)
    price_lines(db, config)
    return customer_features(db, AS_OF, config, HORIZON_DAYS)


def one(db: Engine, lines: Sequence[Line], events: Sequence[Event] = ()) -> pd.Series:
    frame = features(db, lines, events)
    assert len(frame) == 1
    return frame.iloc[0]


# The twin: per customer, in plain Python, on the priced lines.


def twin(db: Engine, events: Sequence[Event], config: Config) -> dict[str, dict[str, float | None]]:
    per_customer: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for customer, *rest in db.rows(
        "SELECT customer_id, order_date, posted_date, net_amount, value, quantity, product_id FROM main.order_lines"
    ):
        if rest[0] < AS_OF and (rest[1] is None or rest[1] < AS_OF):
            per_customer[customer].append(tuple(rest))
    return {
        customer: twin_of(
            lines,
            [e for e in events if e.customer_id == customer and max(e.day, e.posted_day or e.day) < 0],
            config,
        )
        for customer, lines in per_customer.items()
    }


def twin_of(lines: list[tuple[Any, ...]], events: list[Event], config: Config) -> dict[str, float | None]:
    day_net: dict[date, float] = defaultdict(float)
    day_value: dict[date, float] = defaultdict(float)
    day_units: dict[date, float] = {}
    for day, _, net, value, quantity, _ in lines:
        day_net[day] += float(net)
        day_value[day] += float(value)
        if net > 0 and quantity is not None:
            day_units[day] = day_units.get(day, 0.0) + float(quantity)
    units = sum(day_units.values()) if day_units else None
    age = {day: (AS_OF - day).days for day in day_net}
    bought = sorted(day for day, net in day_net.items() if net > 1e-9)
    values = [day_value[day] for day in bought]
    gaps = [(after - before).days for before, after in pairwise(bought)]
    recent = [line for line in lines if (AS_OF - line[0]).days <= 365]
    last = (AS_OF - bought[-1]).days if bought else None
    sold = sum(float(line[2]) for line in recent if line[2] > 0)
    revenue = sum(float(line[2]) for line in recent)
    value_365 = sum(float(line[3]) for line in recent)
    season_end = AS_OF + timedelta(days=HORIZON_DAYS - 365)
    amount_start = add_months(AS_OF, -config.order_amount.months)
    in_window = [line for line in lines if line[0] >= amount_start]
    by_quantity = config.order_amount.measure == "quantity"
    expected: dict[str, float | None] = {
        "days_since_last_purchase": last,
        "overdue_ratio": last / mean(gaps) if gaps and last is not None else None,
        "orders_total": len(bought),
        "orders_previous_90": sum(91 <= age[day] <= 180 for day in bought),
        "gap_mean_days": mean(gaps) if gaps else None,
        "gap_sd_days": deviation(gaps),
        "gap_last_days": gaps[-1] if gaps else None,
        "value_previous_90": sum(day_value[day] for day in age if 91 <= age[day] <= 180),
        "value_same_season": sum(
            value for day, value in day_value.items() if age[day] <= 365 and day < season_end
        ),
        "order_value_mean": mean(values) if values else None,
        "order_value_max": max(values) if values else None,
        "order_value_last": values[-1] if values else None,
        "order_value_first": values[0] if values else None,
        "order_value_sd": deviation(values),
        "returned_ratio_365": -sum(float(line[2]) for line in recent if line[2] < 0) / sold if sold else None,
        "products_365": len({line[5] for line in recent if line[2] > 0 and line[5] is not None}),
        "categories_365": len(
            {CATEGORIES[line[5]] for line in recent if line[2] > 0 and line[5] in CATEGORIES}
        ),
        "units_total": units,
        "units_180": None if units is None else sum(n for day, n in day_units.items() if age[day] <= 180),
        "units_decayed_90": sum(round(n * 2 ** (-age[day] / 90), 6) for day, n in day_units.items())
        if day_units
        else None,
        "units_per_order": units / len(bought) if units is not None and bought else None,
        "value_per_unit": sum(day_value[day] for day in day_units) / units if (units or 0) > 1e-9 else None,
        "margin_ratio_365": value_365 / revenue if revenue > 1e-9 else None,
        "services_365": sum(event.day >= -365 for event in events),
        "frequency": len(bought) - 1 if bought else None,
        "recency_days": (bought[-1] - bought[0]).days if bought else None,
        "T_days": (AS_OF - (bought or sorted(age))[0]).days,
        "order_count": len(bought),
        "mean_order_value": sum(day_value.values()) / len(bought) if bought else None,
        "revenue_365": revenue,
        "order_amount": sum(float((line[4] or 0) if by_quantity else line[2]) for line in in_window),
        "has_recent_order": any(day >= add_months(AS_OF, -config.tiers.active_months) for day in bought),
    }
    for days in WINDOWS_DAYS:
        expected[f"orders_{days}"] = sum(age[day] <= days for day in bought)
        expected[f"value_{days}"] = sum(value for day, value in day_value.items() if age[day] <= days)
    for half_life in HALF_LIVES_DAYS:
        weight = {day: 2 ** (-days / half_life) for day, days in age.items()}
        expected[f"orders_decayed_{half_life}"] = sum(round(weight[day], 6) for day in bought)
        expected[f"value_decayed_{half_life}"] = sum(round(day_value[day] * weight[day], 6) for day in age)
    return expected


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    return sqrt(mean([(value - mean(values)) ** 2 for value in values]))


def disagreements(frame: pd.DataFrame, expected: dict[str, dict[str, float | None]]) -> list[str]:
    found = []
    for row in frame.to_dict("records"):
        for name, wanted in expected[row["customer_id"]].items():
            value = float(row[name])
            same = isnan(value) if wanted is None else abs(value - wanted) <= 1e-9 * max(1.0, abs(wanted))
            if not same:
                found.append(f"{row['customer_id']} {name}: found {value}, expected {wanted}")
    return found


# Companies of a few customers. Ids are few, so that orders, days and products meet.

CENTS = st.one_of(st.sampled_from([0, 2_999, 10_000]), st.integers(-30_000, 60_000))


POSTED = st.one_of(st.none(), st.integers(-200, 60))


def lines_between(first: int, last: int, posted: st.SearchStrategy[int | None] = POSTED) -> Any:
    return st.builds(
        Line,
        customer_id=st.sampled_from("ABC"),
        day=st.integers(first, last),
        net_amount=CENTS.map(lambda cents: cents / 100),
        posted_day=posted,
        order_id=st.sampled_from(["o1", "o2", "o3"]),
        product_id=st.sampled_from(["p1", "p2", "p3", "p4", None]),
        quantity=st.sampled_from([None, 1.0, 2.5, -1.0]),
    )


EVENTS = st.lists(
    st.builds(Event, st.sampled_from("ABC"), st.integers(-500, 20), st.none() | st.integers(-90, 20)),
    max_size=5,
)
PROPERTY = settings(max_examples=30, deadline=None, derandomize=True)


@PROPERTY
@given(
    lines=st.lists(lines_between(-800, 30), min_size=1, max_size=40),
    events=EVENTS,
    measure=st.sampled_from(["amount", "quantity"]),
)
def test_every_feature_agrees_with_its_plain_definition(
    lines: list[Line], events: list[Event], measure: str
) -> None:
    config = configured(order_amount={"measure": measure, "months": 24})
    with workspace(threads=1, memory_limit="1GB") as db:
        frame = features(db, lines, events, config)
        expected = twin(db, events, config)
    assert set(frame["customer_id"]) == set(expected)
    features_and_inputs = {*BESIDE, *(feature.name for feature in FEATURES)}
    assert features_and_inputs <= set(frame.columns)
    assert all(features_and_inputs == set(row) - {"has_recent_order"} for row in expected.values())
    assert disagreements(frame, expected) == []


LATER_LINES = st.lists(
    lines_between(0, 400) | lines_between(-800, -1, posted=st.integers(0, 400)), min_size=1, max_size=10
)


@PROPERTY
@given(
    lines=st.lists(lines_between(-800, -1, posted=st.none()), min_size=1, max_size=20),
    events=EVENTS,
    later_lines=LATER_LINES,
    later_events=st.lists(
        st.builds(Event, st.sampled_from("ABC"), st.integers(0, 50), st.none()), max_size=3
    ),
)
def test_nothing_dated_or_posted_on_or_after_as_of_moves_a_feature(
    lines: list[Line], events: list[Event], later_lines: list[Line], later_events: list[Event]
) -> None:
    with workspace(threads=1, memory_limit="1GB") as db:
        lines = [
            *lines,
            Line("Z", -1),
        ]  # sales of nothing at all have no known margin, sales of later days may
        before = features(db, lines, events)
        after = features(db, lines + later_lines, events + later_events)
    assert_frame_equal(before, after, check_exact=True)


@PROPERTY
@given(lines=st.lists(lines_between(-800, -1), min_size=2, max_size=30), data=st.data())
def test_the_order_of_rows_does_not_matter(lines: list[Line], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(lines))
    with workspace(threads=1, memory_limit="1GB") as db:
        assert_frame_equal(features(db, lines), features(db, shuffled), check_exact=True)


def test_the_number_of_threads_does_not_matter() -> None:
    frames = []
    for threads, seed in ((1, 1), (2, 2), (4, 3)):
        with workspace(threads=threads, memory_limit="1GB") as db:
            fill(db, [])
            db.run(f"""
                INSERT INTO main.order_lines BY NAME
                SELECT 'o' || i // 2 AS order_id, 'c' || hash(i // 2) % 3000 AS customer_id,
                    'p' || i % 50 AS product_id,
                    DATE '2023-01-01' + CAST(hash(i // 2 + 1) % 900 AS INTEGER) AS order_date,
                    CAST(hash(i + 2) % 100000 AS DECIMAL(18,4)) / 300 - 20 AS net_amount, 1 AS quantity
                FROM range(300000) AS numbers(i) ORDER BY hash(i + {seed})
            """)
            price_lines(db, CONFIG)
            frames.append(customer_features(db, AS_OF, CONFIG, HORIZON_DAYS))
    assert len(frames[0]) == 3000
    assert_frame_equal(frames[0], frames[1], check_exact=True)
    assert_frame_equal(frames[0], frames[2], check_exact=True)


@pytest.fixture
def db() -> Iterator[Engine]:
    with workspace(threads=1, memory_limit="1GB") as engine:
        yield engine


def test_buy_till_you_die_inputs_count_repeat_purchase_days(db: Engine) -> None:
    row = one(db, [Line("A", -100), Line("A", -100, order_id="o2"), Line("A", -70), Line("A", -10)])
    assert (row.frequency, row.recency_days, row.T_days, row.order_count) == (2, 90, 100, 3)
    assert row.days_since_last_purchase == 10


def test_one_purchase_has_no_repeat_and_no_gap(db: Engine) -> None:
    row = one(db, [Line("A", -100)])
    assert (row.frequency, row.recency_days, row.T_days) == (0, 0, 100)
    assert (
        row[["gap_mean_days", "gap_sd_days", "gap_last_days", "overdue_ratio", "order_value_sd"]].isna().all()
    )


def test_a_return_is_never_a_purchase_occasion(db: Engine) -> None:
    row = one(db, [Line("A", -100), Line("A", -40, -30.0)])
    assert (row.frequency, row.order_count, row.days_since_last_purchase) == (0, 1, 100)
    assert row.returned_ratio_365 == pytest.approx(0.3)
    assert row.revenue_365 == 70


@pytest.mark.parametrize("returned", [-100.0, -150.0])
def test_a_day_whose_net_is_not_positive_is_no_occasion(db: Engine, returned: float) -> None:
    row = one(db, [Line("A", -100), Line("A", -40), Line("A", -40, returned, order_id="o2")])
    assert (row.order_count, row.recency_days, row.orders_90) == (1, 0, 0)


def test_a_return_that_leaves_the_day_positive_lowers_the_order_value(db: Engine) -> None:
    whole = one(db, [Line("A", -40)])
    row = one(db, [Line("A", -40), Line("A", -40, -30.0, order_id="o2")])
    assert row.order_count == 1
    assert row.order_value_last < whole.order_value_last


def test_a_customer_who_only_returned_goods_has_no_purchase_but_a_row(db: Engine) -> None:
    row = one(db, [Line("A", -50, -80.0), Line("A", -20, -10.0)])
    assert (row.order_count, row.orders_total, row.T_days) == (0, 0, 50)
    missing = [
        "frequency",
        "recency_days",
        "mean_order_value",
        "days_since_last_purchase",
        "order_value_mean",
    ]
    assert row[[*missing, "margin_ratio_365", "returned_ratio_365", "gap_mean_days"]].isna().all()
    assert row.revenue_365 == -90
    assert row.value_365 < 0
    assert not row.has_recent_order


def test_what_came_back_on_another_day_lowers_the_mean_order_but_is_no_order(db: Engine) -> None:
    kept = one(db, [Line("A", -90), Line("A", -30, order_id="o2")])
    row = one(db, [Line("A", -90), Line("A", -30, order_id="o2"), Line("A", -10, -60.0, order_id="o3")])
    assert (row.order_count, row.frequency, row.recency_days) == (2, 1, 60)
    assert row.order_value_mean == kept.order_value_mean
    assert row.mean_order_value == kept.mean_order_value - 60 * 0.3 / 2


def test_units_are_pieces_sold_and_unknown_without_a_quantity(db: Engine) -> None:
    row = one(
        db, [Line("A", -200, quantity=4), Line("A", -20, quantity=2, order_id="o2"), Line("A", -5, -50.0)]
    )
    assert (row.units_total, row.units_180, row.units_per_order) == (6, 2, 3)
    without = one(db, [Line("A", -20, quantity=None)])
    assert (
        without[["units_total", "units_180", "units_decayed_90", "units_per_order", "value_per_unit"]]
        .isna()
        .all()
    )


def test_types_of_columns_do_not_depend_on_what_is_missing(db: Engine) -> None:
    names = [*BESIDE, *(feature.name for feature in FEATURES)]
    without = features(db, [Line("A", -50, -80.0)])[names]
    full = features(db, [Line("A", -day, order_id=str(day)) for day in (5, 10, 20, 40)])[names]
    assert without.dtypes.to_dict() == full.dtypes.to_dict()


def test_a_line_posted_later_is_not_visible(db: Engine) -> None:
    row = one(db, [Line("A", -50), Line("A", -20, posted_day=0)])
    assert (row.order_count, row.days_since_last_purchase) == (1, 50)
    assert one(db, [Line("A", -50), Line("A", -20, posted_day=-1)]).order_count == 2


def test_the_day_before_as_of_is_the_last_one_seen(db: Engine) -> None:
    frame = features(db, [Line("A", -1), Line("B", 0)])
    assert frame["customer_id"].to_list() == ["A"]
    assert frame.loc[0, "days_since_last_purchase"] == 1


def test_a_window_of_n_days_begins_n_days_before_as_of(db: Engine) -> None:
    frame = features(db, [Line("A", -365), Line("B", -366)], [Event("A", -365), Event("B", -366)])
    assert frame["orders_365"].to_list() == [1, 0]
    assert frame["revenue_365"].to_list() == [100, 0]
    assert frame["products_365"].to_list() == [1, 0]
    assert frame["services_365"].to_list() == [1, 0]


@pytest.mark.parametrize(("day", "within"), [(-90, (1, 0)), (-91, (0, 1)), (-180, (0, 1)), (-181, (0, 0))])
def test_the_previous_90_days_end_where_the_last_90_begin(
    db: Engine, day: int, within: tuple[int, int]
) -> None:
    row = one(db, [Line("A", day)])
    assert (row.orders_90, row.orders_previous_90) == within
    assert (row.value_90 > 0, row.value_previous_90 > 0) == within


def test_equal_orders_have_no_deviation_however_large(db: Engine) -> None:
    row = one(db, [Line("A", -day, 123_456_789.37, order_id=str(day)) for day in (10, 20, 30)])
    assert row.order_value_sd == 0
    assert row.gap_sd_days == 0


def test_amounts_of_ten_trillions_are_no_obstacle(db: Engine) -> None:
    row = one(db, [Line("A", -day, 1e13, order_id=str(day)) for day in range(1, 60)])
    assert row.revenue_365 == 59e13
    assert row.order_value_sd < 1e3


def test_the_season_of_last_year_says_nothing_about_a_whole_year(db: Engine) -> None:
    fill(db, [Line("A", -200)])
    price_lines(db, CONFIG)
    half_year = customer_features(db, AS_OF, CONFIG, 180)
    assert half_year.loc[0, "value_same_season"] == half_year.loc[0, "value_365"] > 0
    assert customer_features(db, AS_OF, CONFIG, 365)["value_same_season"].isna().all()


def test_an_order_within_the_active_months_is_recent(db: Engine) -> None:
    edge = (add_months(AS_OF, -24) - AS_OF).days
    frame = features(db, [Line("A", edge), Line("B", edge - 1), Line("C", edge - 1), Line("C", -5, -50.0)])
    assert frame["has_recent_order"].to_list() == [True, False, False]


def test_attributes_and_the_peer_group_stand_beside_the_features(db: Engine) -> None:
    attributes = {"industry": {"type": "category", "known_at": "first_contact"}}
    config = configured(attributes=attributes, segment=["industry"])
    fill(db, [Line("A", -10), Line("B", -10), Line("C", -10)])
    db.run("ALTER TABLE main.customers ADD COLUMN industry VARCHAR")
    db.run("INSERT INTO main.customers BY NAME SELECT 'A' AS customer_id, 'it''s' AS industry, 'Ann' AS name")
    db.run("INSERT INTO main.customers BY NAME SELECT 'B' AS customer_id, 'Bob' AS name")
    db.run("UPDATE main.customers SET first_contact_date = DATE '2020-01-01'")
    price_lines(db, config)
    frame = customer_features(db, AS_OF, config, HORIZON_DAYS)
    assert frame["segment"].to_list() == ["it's", "unknown", "unknown"]
    assert frame["name"].to_list()[:2] == ["Ann", "Bob"]
    assert segment_of(frame, ["industry"]).to_list() == frame["segment"].to_list()
    assert segment_of(frame, []).to_list() == ["all"] * 3
    assert segment_sql([]) == "'all'"


def test_each_feature_is_declared_once_and_with_a_direction() -> None:
    names = [feature.name for feature in FEATURES]
    assert len(names) == len(set(names))
    assert {feature.monotone for feature in FEATURES} <= {-1, 0, 1}
