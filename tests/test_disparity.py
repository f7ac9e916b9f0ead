"""Groups of prospects side by side: the four-fifths rule, errors by group, and who was worked, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.stats import fisher_exact

from clv import disparity
from clv.config import Config
from clv.console import prospect_warnings

KEY = ("hot", "warm")


def month(**groups: tuple[int, int]) -> pd.DataFrame:
    """Prospects by region: (how many, how many of them warm)."""
    rows = [
        {
            "region": region,
            "tier": "warm" if i < key else "cold",
            "composite_score": 60.0 if i < key else 40.0,
        }
        for region, (n, key) in groups.items()
        for i in range(n)
    ]
    return pd.DataFrame(rows)


def test_the_four_fifths_rule_by_hand() -> None:
    found = disparity.of_month(month(north=(100, 30), south=(50, 10), west=(40, 10)), ["region"], KEY)
    by = found.set_index("group")
    assert by["key_ratio"].to_dict() == {"north": 0.3, "south": 0.2, "west": 0.25}
    assert by["ratio_to_best"].tolist() == pytest.approx([1, 2 / 3, 5 / 6])
    assert by["is_flagged"].tolist() == [False, True, False]
    assert by.loc["south", "mean_score"] == pytest.approx(44)
    expected = fisher_exact([[30, 70], [10, 40]]).pvalue
    assert by.loc["south", "chance_probability"] == pytest.approx(expected)
    [(name, value, detail)] = disparity.facts(found, "prospect_disparity", "key_ratio", "share in hot, warm")
    assert (name, value) == ("prospect_disparity_region", pytest.approx(2 / 3))
    assert "30% of north is the most" in detail
    assert "below four fifths of it, as chance may have it: south (20%; 50 prospects" in detail


def test_the_terminal_warns_of_what_is_flagged_and_of_nothing_else() -> None:
    flagged = disparity.of_month(month(north=(400, 120), south=(200, 40)), ["region"], KEY)
    even = disparity.of_month(month(north=(100, 30), south=(50, 15)), ["region"], KEY)
    rows = [
        *disparity.facts(flagged, "prospect_disparity", "key_ratio", "share in hot, warm"),
        *disparity.facts(even, "conversion_disparity", "key_ratio", "share of those who converted"),
        ("prospect_drift_psi", 0.1, "Prospects against those learned from, none of 8 attributes has moved"),
        ("judges_all", 0.6, "all judges: below four fifths of it: moved: whatever they say"),
    ]
    [warning] = prospect_warnings(pd.DataFrame(rows, columns=["name", "value", "detail"]))
    assert warning.startswith(
        "share in hot, warm, by region: 30% of north is the most; below four fifths of it: south"
    )
    moved = pd.DataFrame([("prospect_drift_psi", 0.3, "PSI 0.30 of age; moved: first_visits")])
    assert prospect_warnings(moved.set_axis(["name", "value", "detail"], axis=1)) == [
        "PSI 0.30 of age; moved: first visits"
    ]


def test_groups_under_20_are_joined_and_said_so_and_are_never_the_best() -> None:
    found = disparity.of_month(month(north=(60, 12), tiny=(5, 5), small=(10, 1)), ["region"], KEY).set_index(
        "group"
    )
    assert found.index.tolist() == ["groups under 20, together (2)", "north"]
    joined = found.loc["groups under 20, together (2)"]
    assert (joined["prospects"], joined["key_ratio"]) == (15, 0.4)
    assert found.loc["north", "ratio_to_best"] == 1.0
    [(_, value, detail)] = disparity.facts(found.reset_index(), "d", "key_ratio", "share")
    assert value is None
    assert "fewer than two groups of 20" in detail


def test_a_missing_group_is_a_group_and_odd_names_are_only_text() -> None:
    frame = month(north=(30, 6), other=(30, 3))
    frame.loc[frame["region"] == "other", "region"] = None
    odd = frame.replace({"region": {"north": "[red]Ω[/red]\n"}})
    assert set(disparity.of_month(odd, ["region"], KEY)["group"]) == {"[red]Ω[/red]\n", "not known"}


def test_nobody_in_key_tiers_is_no_disparity() -> None:
    found = disparity.of_month(month(north=(30, 0), south=(30, 0)), ["region"], KEY)
    assert not found["is_flagged"].any()
    assert found["ratio_to_best"].isna().all()
    assert disparity.of_month(month(north=(30, 0)), [], KEY).empty


def matured() -> pd.DataFrame:
    """Two origins of 50: in the north 10 convert of whom the model ranks 8 first, in the south 10 with 2 first."""
    parts = []
    for origin in ("2024-01-01", "2024-07-01"):
        for region, hits in (("north", 8), ("south", 2)):
            converted = np.arange(25) < 10
            high = np.arange(25) < hits  # of those who convert
            score = np.where(high, 90.0, 10.0) - np.arange(25) / 100
            parts.append(
                pd.DataFrame(
                    {
                        "customer_id": [f"{region} {i}" for i in range(25)],
                        "trained_as_of": pd.Timestamp(origin),
                        "region": region,
                        "worked": pd.array([True] * 5 + [False] * 15 + [None] * 5, dtype="boolean"),
                        "converted": converted,
                        "conversion_probability": 0.3,
                        "model_score": score,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def test_true_positives_and_calibration_by_group_by_hand() -> None:
    found = disparity.of_outcomes(matured(), ["region"], 0.2).set_index("group")
    assert found["prospects"].tolist() == [50, 50]
    assert found["converted"].tolist() == [20, 20]
    assert found["true_positive_ratio"].tolist() == [0.8, 0.2]
    assert found["ratio_to_best"].tolist() == pytest.approx([1, 0.25])
    assert found["is_flagged"].tolist() == [False, True]
    assert found["mean_predicted"].tolist() == pytest.approx([0.3, 0.3])
    assert found["mean_realised"].tolist() == pytest.approx([0.4, 0.4])
    assert found["standard_error"].tolist() == pytest.approx([np.sqrt(0.4 * 0.6 / 50)] * 2)
    shuffled = matured().sample(frac=1, random_state=5)
    pd.testing.assert_frame_equal(
        disparity.of_outcomes(shuffled, ["region"], 0.2), disparity.of_outcomes(matured(), ["region"], 0.2)
    )


def test_too_few_conversions_give_no_true_positive_rate() -> None:
    rows = matured()
    south = (rows["region"] == "south").to_numpy(bool)
    rows.loc[south & (rows.groupby("region").cumcount() > 3).to_numpy(bool), "converted"] = False
    found = disparity.of_outcomes(rows, ["region"], 0.2).set_index("group")
    assert np.isnan(found.loc["south", "true_positive_ratio"])
    assert not found["is_flagged"].any()


def test_who_was_worked_is_counted_with_what_became_of_them_and_no_effect_is_claimed() -> None:
    found = disparity.worked(matured(), "worked", 0.2).set_index(["is_picked", "is_worked"])
    assert found["prospects"].sum() == 100
    picked = found.loc[True]
    assert picked.loc["yes", "prospects"] + picked.loc["no", "prospects"] == 20
    assert picked.loc["yes", "converted_ratio"] == 1.0
    assert found.loc[(False, "not known"), "converted_ratio"] == 0
    assert found.groupby("is_picked")["share_ratio"].sum().tolist() == [1, 1]


# What a configuration may declare

PEOPLE = {
    "company": "tiny",
    "reporting_currency": "EUR",
    "sources": {"order_lines": {"table": "lines"}, "customers": {"table": "people"}},
}


def config(attributes: dict[str, object], **sections: object) -> Config:
    return Config.model_validate({**PEOPLE, "attributes": attributes, **sections})


CATEGORY = {"type": "category", "known_at": "first_contact"}
REPORTED = CATEGORY | {"for_reporting": True}


@pytest.mark.parametrize(
    "name", ["age", "gender", "birth_date", "nationality", "marital_status", "disability"]
)
def test_a_protected_attribute_is_refused_by_name_unless_it_is_for_reporting(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"attributes\.{name}: a person's age, sex"):
        config({name: CATEGORY})
    reported = config({name: REPORTED, "region": CATEGORY}, fairness={"groups": [name, "region"]})
    assert set(reported.known_at_first_contact) == {"region"}  # no model reads it, whenever it is known


@pytest.mark.parametrize(
    "sections",
    [
        {"segment": ["gender"]},
        {"standards": {"own": {"attribute": "staff", "label": "staff"}}},
        {"tiers": {"policy": "thresholds", "thresholds": {"gold": 5}, "measure": "staff"}},
    ],
)
def test_what_is_for_reporting_decides_nothing(sections: dict[str, object]) -> None:
    number = {"type": "number", "known_at": "first_contact", "for_reporting": True}
    with pytest.raises(ValidationError, match="is for_reporting, so no segment, standard"):
        config({"gender": REPORTED, "staff": number}, **sections)


def test_groups_and_the_worked_flag_must_be_declared() -> None:
    flag = {"type": "flag", "known_at": "after_contact"}
    found = config({"worked": flag}, fairness={"worked_attribute": "worked"})
    assert found.known_at_first_contact == {}
    for fairness in ({"worked_attribute": "region"}, {"worked_attribute": "absent"}, {"groups": ["absent"]}):
        with pytest.raises(ValidationError, match="must be a declared attribute"):
            config({"region": CATEGORY, "worked": flag}, fairness=fairness)
