"""Whether groups of prospects are treated alike: shares in key tiers, and errors of the forecast, by declared group.

Groups are for reporting: an attribute that models must not read may be one. The four-fifths rule (US Uniform
Guidelines on Employee Selection Procedures, 1978, 29 CFR 1607.4 D) flags a group that is selected less than four
fifths as often as the best-treated one; beside it stands how often chance alone does that to groups so small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import fisher_exact

Fact = tuple[str, float | None, str]

SMALL_GROUP = 20
BY_CHANCE = 0.05
CLEARLY_BELOW = "below four fifths of it:"
FOUR_FIFTHS = 0.8
UNKNOWN = "not known"
SMALL_CONVERTED = 5  # below so many conversions no true positive rate is given


def of_month(frame: pd.DataFrame, groups: Sequence[str], key: Sequence[str]) -> pd.DataFrame:
    """One row per attribute of `groups` and group: how this month's prospects of it were graded.

    `frame`: graded prospects with the attributes, composite_score and tier; `key`: the key tiers. Columns: attribute,
    group (of fewer than 20 together), prospects, mean_score, key_ratio, ratio_to_best (key_ratio / that of the best
    group of 20 or more), chance_probability (Fisher's exact test against the best group), is_flagged (ratio < 0.8,
    of a group of 20 or more).
    """
    counted = pd.DataFrame(
        {
            "mean_score": frame["composite_score"].to_numpy(np.float64, na_value=np.nan),
            "selected": frame["tier"].isin(list(key)).to_numpy(np.float64),
        },
        index=frame.index,
    )
    tables = []
    for attribute in groups:
        by = counted.groupby(_joined(frame[attribute]), sort=True)
        found = by.agg(
            prospects=("selected", "size"), mean_score=("mean_score", "mean"), key=("selected", "sum")
        )
        found["key_ratio"] = found["key"] / found["prospects"]
        tables.append(
            _with_rule(found, found["key"], found["prospects"], "key_ratio").pipe(_named, attribute)
        )
    return pd.concat(tables)[MONTH_COLUMNS] if tables else pd.DataFrame(columns=MONTH_COLUMNS)


MONTH_COLUMNS = [
    *("attribute", "group", "prospects", "mean_score", "key_ratio", "ratio_to_best", "chance_probability"),
    "is_flagged",
]


def of_outcomes(matured: pd.DataFrame, groups: Sequence[str], top_ratio: float) -> pd.DataFrame:
    """One row per attribute of `groups` and group: what had been forecast of its prospects, and what happened.

    `matured`: learn.prospect_past.matured_prospects; picked are the first `top_ratio` of each origin by the model's
    score. Columns: attribute, group, prospects (exposures), converted, mean_predicted, mean_realised, standard_error
    (of mean_realised), true_positive_ratio (of those who converted, the share picked; null below 5), ratio_to_best,
    chance_probability, is_flagged as in of_month.
    """
    tables = []
    for attribute in groups if len(matured) else ():
        rows = pd.DataFrame(
            {
                "converted": matured["converted"].to_numpy(np.float64),
                "predicted": matured["conversion_probability"].to_numpy(np.float64),
                "hit": (picked(matured, top_ratio) & matured["converted"].to_numpy(bool)).astype(np.float64),
            },
            index=matured.index,
        )
        found = rows.groupby(_joined(matured[attribute]), sort=True).agg(
            prospects=("converted", "size"),
            converted=("converted", "sum"),
            mean_predicted=("predicted", "mean"),
            mean_realised=("converted", "mean"),
            hits=("hit", "sum"),
        )
        share = found["mean_realised"]
        found["standard_error"] = np.sqrt(share * (1 - share) / found["prospects"])
        enough = found["converted"] >= SMALL_CONVERTED
        found["true_positive_ratio"] = (found["hits"] / found["converted"]).where(enough)
        ruled = _with_rule(found, found["hits"], found["converted"], "true_positive_ratio")
        tables.append(_named(ruled, attribute))
    return pd.concat(tables)[OUTCOME_COLUMNS] if tables else pd.DataFrame(columns=OUTCOME_COLUMNS)


OUTCOME_COLUMNS = [
    *("attribute", "group", "prospects", "converted", "mean_predicted", "mean_realised", "standard_error"),
    *("true_positive_ratio", "ratio_to_best", "chance_probability", "is_flagged"),
]


def worked(matured: pd.DataFrame, attribute: str, top_ratio: float) -> pd.DataFrame:
    """Who was worked by sales, of those the model picked and of the others: a row per picked x worked.

    Columns: is_picked (of the first `top_ratio` of its origin), is_worked (`not known` where the flag is missing),
    prospects, share_ratio (of the picked, or of the others), converted_ratio, mean_predicted. Who is worked is chosen
    by people, and work may convert: a difference between the rows is no effect of either alone.
    """
    if not len(matured):
        return pd.DataFrame(columns=WORKED_COLUMNS)
    flag = matured[attribute].astype("object").map({True: "yes", False: "no"}).fillna(UNKNOWN)
    rows = matured.assign(is_picked=picked(matured, top_ratio), is_worked=flag.to_numpy())
    found = rows.groupby(["is_picked", "is_worked"], sort=True).agg(
        prospects=("converted", "size"),
        converted_ratio=("converted", lambda happened: happened.astype("float64").mean()),
        mean_predicted=("conversion_probability", "mean"),
    )
    found["share_ratio"] = found["prospects"] / found.groupby("is_picked")["prospects"].transform("sum")
    return found.reset_index()[WORKED_COLUMNS]


WORKED_COLUMNS = ["is_picked", "is_worked", "prospects", "share_ratio", "converted_ratio", "mean_predicted"]


def picked(matured: pd.DataFrame, top_ratio: float) -> NDArray[np.bool_]:
    """Whether each prospect was among the first `top_ratio` of its origin by the model's score; ties by customer_id."""
    order = matured.sort_values(["model_score", "customer_id"], ascending=[False, True], kind="stable")
    place = order.groupby("trained_as_of").cumcount().reindex(matured.index)
    size = matured.groupby("trained_as_of")["customer_id"].transform("size")
    chosen: NDArray[np.bool_] = (place < np.ceil(size * top_ratio)).to_numpy(bool)
    return chosen


def facts(found: pd.DataFrame, name: str, measure: str, what: str) -> Iterator[Fact]:
    """Rows of `month_facts`, one per attribute: the smallest ratio to the best group, and who is flagged, in words.

    `found`: of_month or of_outcomes; `measure`: the column that is compared, `what` its words.
    """
    for attribute, rows in found.groupby("attribute", sort=False):
        known = rows[rows["ratio_to_best"].notna() & (rows["prospects"] >= SMALL_GROUP)]
        if len(known) < 2:
            yield (
                f"{name}_{attribute}",
                None,
                f"{what}: fewer than two groups of {SMALL_GROUP} that can be compared",
            )
            continue
        best = known.loc[known["ratio_to_best"].idxmax()]
        least = known.loc[known["ratio_to_best"].idxmin()]
        flagged = known[known["is_flagged"].astype(bool)].sort_values("ratio_to_best")
        clear = flagged[flagged["chance_probability"] < BY_CHANCE]
        verdict = "no group below four fifths of it"
        if len(flagged):
            verdict = CLEARLY_BELOW if len(clear) else "below four fifths of it, as chance may have it:"
            verdict += " " + ", ".join(
                f"{row['group']} ({row[measure]:.0%}; {int(row['prospects']):,} prospects, p by chance "
                f"{row['chance_probability']:.2f})"
                for row in (clear if len(clear) else flagged).head(10).to_dict("records")
            )
        yield (
            f"{name}_{attribute}",
            float(least["ratio_to_best"]),
            f"{what}, by {attribute}: {best[measure]:.0%} of {best['group']} is the most; {verdict}",
        )


def _joined(column: pd.Series) -> pd.Series:
    """The group of each row; those of fewer than 20 rows are one group, which says so."""
    name = column.astype("object").map(str, na_action="ignore").fillna(UNKNOWN)
    size = name.map(name.value_counts())
    small = size < SMALL_GROUP
    return name.where(~small, f"groups under {SMALL_GROUP}, together ({name[small].nunique()})")


def _with_rule(found: pd.DataFrame, chosen: pd.Series, among: pd.Series, measure: str) -> pd.DataFrame:
    """`found` with ratio_to_best, chance_probability and is_flagged of `measure` = chosen / among."""
    eligible = found[measure].where(found["prospects"] >= SMALL_GROUP)
    top = eligible.max()
    if not top > 0:
        return found.assign(ratio_to_best=math.nan, chance_probability=math.nan, is_flagged=False)
    best = eligible.idxmax()
    of_best = (int(chosen[best]), int(among[best] - chosen[best]))
    chance = [
        float(fisher_exact([of_best, (int(chosen[group]), int(among[group] - chosen[group]))]).pvalue)
        if found.loc[group, measure] == found.loc[group, measure]
        else math.nan
        for group in found.index
    ]
    ratio = found[measure] / top
    flagged = (ratio < FOUR_FIFTHS) & eligible.notna()
    return found.assign(ratio_to_best=ratio, chance_probability=chance, is_flagged=flagged)


def _named(found: pd.DataFrame, attribute: str) -> pd.DataFrame:
    return found.rename_axis("group").reset_index().assign(attribute=attribute)
