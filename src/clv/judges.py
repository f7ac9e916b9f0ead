"""People who judged prospects, held against what then happened and against the model: figures, words, pseudonyms.

A judgement is a score from 0 to 100, not a probability: what can be asked of it is whether those judged higher
converted more often. So judges are compared by rank, beside the model's own score of the same prospects at the time,
and beside both combined as the month combines them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clv import metrics

Floats = NDArray[np.float64]
Fact = tuple[str, float | None, str]

MINIMUM_JUDGEMENTS = 20
MINIMUM_OF_EACH = 5  # converted, and not
TOP_RATIO = 0.20
BANDS = (0.0, 25.0, 50.0, 75.0, 100.0)
ALL = "all judges"


def record(judged: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One row per judge, the best known first, below them `all judges`; empty without a judgement.

    `judged`: judged_by, judgement, model_score, combined_score (0-100) and converted, a row per matured judgement.
    Columns: judge; judgements, converted; hit_rate_ratio (of the fifth scored highest, the share that converted;
    ties share their chance), model_hit_rate_ratio and combined_hit_rate_ratio (of as many picked by the model's
    score, and by both combined); lift and its two likes (hit rate / share of all that converted); auc, its 95 %
    interval auc_low to auc_high, model_auc, combined_auc; gain_low to gain_high, the interval of auc - model_auc on
    the same draws; verdict in words. Null where it cannot be told.
    """
    names = sorted(
        judged["judged_by"].unique(), key=lambda name: (-(judged["judged_by"] == name).sum(), name)
    )
    groups = [(name, judged[judged["judged_by"] == name]) for name in names]
    if len(judged):
        groups.append((ALL, judged))
    return pd.DataFrame([{"judge": name, **_figures(rows, seed)} for name, rows in groups], columns=COLUMNS)


COLUMNS = [
    *(
        "judge",
        "judgements",
        "converted",
        "hit_rate_ratio",
        "model_hit_rate_ratio",
        "combined_hit_rate_ratio",
    ),
    *("lift", "model_lift", "combined_lift", "auc", "auc_low", "auc_high", "model_auc", "combined_auc"),
    *("gain_low", "gain_high", "verdict"),
]


def calibration(judged: pd.DataFrame) -> pd.DataFrame:
    """How many converted by what was judged: a row per judge and band of 25 points, `all judges` last.

    Columns: judge, score_from, score_to, judgements, mean_score, converted_ratio, model_converted_ratio (the mean
    probability the model gave them). Bands without a judgement are absent.
    """
    band = np.clip(
        np.searchsorted(BANDS, judged["judgement"].to_numpy(np.float64), side="right") - 1, 0, len(BANDS) - 2
    )
    both = pd.concat([judged.assign(band=band), judged.assign(band=band, judged_by=ALL)], ignore_index=True)
    both["is_all"] = np.arange(len(both)) >= len(judged)
    found = both.groupby(["is_all", "judged_by", "band"], sort=True).agg(
        judgements=("judgement", "size"),
        mean_score=("judgement", "mean"),
        converted_ratio=("converted", "mean"),
        model_converted_ratio=("conversion_probability", "mean"),
    )
    found = found.reset_index().rename(columns={"judged_by": "judge"})
    found.insert(2, "score_from", np.array(BANDS)[found["band"]])
    found.insert(3, "score_to", np.array(BANDS)[found["band"] + 1])
    return found.drop(columns=["is_all", "band"])


def facts(found: pd.DataFrame, weight_ratio: float, since: str) -> Iterator[Fact]:
    """Rows of `month_facts` from `record`: name, AUC, the judge's record in words; `since` says of which time.

    `judges_all` comes first, `judges_combined` says what both together are worth, `judge_01` and on are the judges.
    """
    if found.empty:
        return
    together = found.iloc[-1]
    yield "judges_all", _number(together["auc"]), f"{sentence(together)} ({since})"
    if together["judgements"] >= MINIMUM_JUDGEMENTS:
        yield (
            "judges_combined",
            _number(together["combined_auc"]),
            f"AUC of the score in which a judgement counts {weight_ratio:g}, on the same prospects; the model alone "
            f"{together['model_auc']:.2f}",
        )
    for place, row in enumerate(found.iloc[:-1].to_dict("records"), start=1):
        yield f"judge_{place:02d}", _number(row["auc"]), sentence(pd.Series(row))


def sentence(row: pd.Series) -> str:
    """A judge's record in one line: how many, how good, the verdict."""
    counted = (
        f"{row['judge']}: {int(row['judgements']):,} matured judgements, {int(row['converted']):,} converted"
    )
    if _undecided(int(row["judgements"]), int(row["converted"])):
        return f"{counted}; {row['verdict']}"
    return (
        f"{counted}; of the best fifth {row['hit_rate_ratio']:.0%} did (picked by the model "
        f"{row['model_hit_rate_ratio']:.0%}); AUC {row['auc']:.2f} ({row['auc_low']:.2f}–{row['auc_high']:.2f}), model "
        f"{row['model_auc']:.2f}; {row['verdict']}"
    )


def pseudonyms(judged: pd.DataFrame) -> dict[str, str]:
    """Name -> `judge 1` and so on, in the order of their first judgement: what may leave the house.

    Nothing of the name is in it; it stays the same as long as nobody is found to have judged earlier.
    """
    first = judged.groupby("judged_by")["judged_date"].min()
    order = sorted(first.index, key=lambda name: (first[name], name))
    return {name: f"judge {place}" for place, name in enumerate(order, start=1)}


def _figures(rows: pd.DataFrame, seed: int) -> dict[str, float | str]:
    converted = rows["converted"].to_numpy(np.float64)
    scores = {
        prefix: rows[name].to_numpy(np.float64)
        for prefix, name in (("", "judgement"), ("model_", "model_score"), ("combined_", "combined_score"))
    }
    n, happened = len(rows), int(converted.sum())
    found: dict[str, float | str] = {"judgements": float(n), "converted": float(happened)}
    rate = happened / n
    for prefix, score in scores.items():
        lift = metrics.captured_share(converted, score, TOP_RATIO) * n / _picked(n)
        found[f"{prefix}lift"] = lift
        found[f"{prefix}hit_rate_ratio"] = lift * rate
        found[f"{prefix}auc"] = metrics.auc(converted, score)
    why = _undecided(n, happened)
    if why:
        return (
            found
            | dict.fromkeys(("auc_low", "auc_high", "gain_low", "gain_high"), math.nan)
            | {"verdict": why}
        )
    low, high = metrics.bootstrap_interval(metrics.auc, converted, scores[""], seed=seed)
    gain_low, gain_high = metrics.paired_bootstrap_difference(
        metrics.auc, converted, scores[""], scores["model_"], seed=seed
    )
    if gain_low > 0:
        verdict = "ranks better than the model"
    elif gain_high < 0:
        verdict = "ranks worse than the model" + ("" if low > 0.5 else ", and no better than chance")
    elif low > 0.5:
        verdict = "not told apart from the model"
    else:
        verdict = "not shown to rank better than chance"
    return found | {
        "auc_low": low, "auc_high": high, "gain_low": gain_low, "gain_high": gain_high, "verdict": verdict,
    }  # fmt: skip


def _undecided(judgements: int, converted: int) -> str:
    """Why there is no verdict; empty where there is one."""
    if judgements < MINIMUM_JUDGEMENTS:
        return f"fewer than {MINIMUM_JUDGEMENTS} matured judgements: no verdict"
    if min(converted, judgements - converted) < MINIMUM_OF_EACH:
        return f"fewer than {MINIMUM_OF_EACH} that converted, or that did not: no verdict"
    return ""


def _picked(n: int) -> int:
    """How many metrics.captured_share takes for the first fifth."""
    return max(1, math.floor(round(TOP_RATIO * n, 6) + 0.5))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
