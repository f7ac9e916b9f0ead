"""Attributes become columns by an encoding that is learned once and travels with the model."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from clv.config import Attribute
from clv.errors import ModelError
from clv.models.attributes import AttributeEncoder

ODD_LEVELS = ['[1,2]:{"x"}', "a=b", "上海 🚀", "tab\tnew\nline", "O'Brien\\", "", " spaced "]


def category() -> Attribute:
    return Attribute(type="category", known_at="first_contact")


def number() -> Attribute:
    return Attribute(type="number", known_at="first_contact")


def flag() -> Attribute:
    return Attribute(type="flag", known_at="first_contact")


ATTRIBUTES = {"industry": category(), "employees": number(), "quote": flag()}


def leads() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "industry": ["Retail"] * 9 + ["Food"] * 9 + ["Rare"] * 2 + [None] * 4,
            "employees": [1.0, 5.0, np.nan, np.inf] * 6,
            "quote": [True, False, None] * 8,
        }
    )


def test_levels_are_sorted_by_count_then_name_and_rare_ones_have_no_column() -> None:
    encoder = AttributeEncoder.fit(leads(), ATTRIBUTES)
    assert [feature.name for feature in encoder.features()] == [
        "employees",
        "industry=Food",
        "industry=Retail",
        "quote",
    ]
    assert [feature.unit for feature in encoder.features()] == ["number", "flag", "flag", "flag"]
    assert {feature.concept for feature in encoder.features()} == {
        "attribute:employees",
        "attribute:industry",
        "attribute:quote",
    }


def test_large_data_ask_more_rows_of_a_level() -> None:
    frame = pd.DataFrame({"industry": ["Retail"] * 990 + ["Food"] * 19})
    encoder = AttributeEncoder.fit(frame, {"industry": category()})
    assert [feature.name for feature in encoder.features()] == ["industry=Retail"]


def test_at_most_twenty_levels() -> None:
    frame = pd.DataFrame({"industry": [f"level {i:02d}" for i in range(30) for _ in range(6)]})
    features = AttributeEncoder.fit(frame, {"industry": category()}).features()
    assert [feature.name for feature in features] == [f"industry=level {i:02d}" for i in range(20)]


def test_unseen_level_and_null_set_no_flag_and_missing_numbers_stay_missing() -> None:
    encoder = AttributeEncoder.fit(leads(), ATTRIBUTES)
    rows = pd.DataFrame(
        {"industry": ["Space", None, "Food"], "employees": [np.inf, None, 3], "quote": [None, True, False]},
        index=[7, 8, 9],
    )
    encoded = encoder.transform(rows)
    assert encoded.dtypes.eq(np.float64).all()
    assert list(encoded.index) == [7, 8, 9]
    np.testing.assert_array_equal(encoded["industry=Food"], [0, 0, 1])
    np.testing.assert_array_equal(encoded["industry=Retail"], [0, 0, 0])
    np.testing.assert_array_equal(encoded["employees"], [np.nan, np.nan, 3])
    np.testing.assert_array_equal(encoded["quote"], [np.nan, 1, 0])


def test_levels_with_odd_characters_survive_json() -> None:
    frame = pd.DataFrame({"industry": np.repeat(ODD_LEVELS, 5)})
    encoder = AttributeEncoder.fit(frame, {"industry": category()})
    assert len(encoder.features()) == len(ODD_LEVELS)
    again = AttributeEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again == encoder
    pd.testing.assert_frame_equal(again.transform(frame), encoder.transform(frame))
    assert (encoder.transform(frame).sum(axis=1) == 1).all()


def test_an_attribute_known_after_contact_is_never_encoded() -> None:
    frame = pd.DataFrame({"status": ["won", "lost"] * 10, "employees": range(20)})
    declared = {"status": Attribute(type="category", known_at="after_contact"), "employees": number()}
    encoder = AttributeEncoder.fit(frame, declared)
    assert [feature.name for feature in encoder.features()] == ["employees"]


def test_row_order_does_not_matter_and_alone_equals_batch() -> None:
    frame = leads()
    encoder = AttributeEncoder.fit(frame, ATTRIBUTES)
    assert AttributeEncoder.fit(frame.sample(frac=1, random_state=1), ATTRIBUTES) == encoder
    batch = encoder.transform(frame)
    for row in range(len(frame)):
        pd.testing.assert_frame_equal(encoder.transform(frame.iloc[[row]]), batch.iloc[[row]])


@pytest.mark.parametrize("values", [[True, None], [1, 0], [1.0, np.nan], np.array([1, 0], dtype=np.int8)])
def test_flags_are_read_from_every_form_a_table_gives_them(values: object) -> None:
    encoder = AttributeEncoder.fit(pd.DataFrame({"quote": [True]}), {"quote": flag()})
    encoded = encoder.transform(pd.DataFrame({"quote": values}))["quote"]
    assert encoded[0] == 1
    assert encoded[1] == 0 or np.isnan(encoded[1])


def test_no_attributes_give_no_columns() -> None:
    encoder = AttributeEncoder.fit(leads(), {})
    assert encoder.transform(leads()).shape == (24, 0)


def test_absent_column_and_unreadable_number_are_named() -> None:
    encoder = AttributeEncoder.fit(leads(), ATTRIBUTES)
    with pytest.raises(ModelError, match="'employees'"):
        encoder.transform(leads().drop(columns="employees"))
    with pytest.raises(ModelError, match="'employees' to be a number"):
        encoder.transform(leads().assign(employees="many"))
