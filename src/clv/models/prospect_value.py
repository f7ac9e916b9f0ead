"""What a prospect is worth: P(first order within conversion_days) x value of the months after it.

Two parts that stay apart until they are multiplied, each with a link on which its reasons add up: the logit of the
conversion probability, the logarithm of the value given conversion. Each is the mean of a small LightGBM and a
regularised linear model, shifted by one constant so that the training total is met.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import lightgbm as lgb
import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import beta

from clv.config import Attribute, Config
from clv.errors import ModelError
from clv.features import Feature, segment_of
from clv.models.attributes import AttributeEncoder
from clv.models.level_effects import LevelEffects
from clv.models.links import (
    Floats,
    Linear,
    Link,
    beside,
    effects_table,
    logistic,
    logit_shift,
    tweedie_regression,
)
from clv.models.prospect_parts import (
    AGE,
    QUANTILES,
    SMALL_PROSPECTS,
    Inputs,
    conversion_link,
    exp_value,
    exposures,
    learn_inputs,
    ratio_quantiles,
    value_link,
)
from clv.models.references import by_segment, listed, medians
from clv.models.shapley import Attribution

TAIL = 0.1  # on each side of the 80 % interval


@dataclass(frozen=True)
class ProspectValue:
    """P(convert) and value given conversion of prospects; made by `fit`, or by `segment_means` where that fails.

    `verdict` says in words which of the two it is and on how much data, `detail` the counts. `ratio_quantiles`:
    percentiles of realised / predicted value of converted customers; `evidence_prospects`: prospects behind one
    segment's rate, by which its interval is widened (learned models: null).
    """

    KIND: ClassVar[str] = "prospect-value"

    inputs: Inputs
    segment: tuple[str, ...] | None  # the columns of the segment where this is the table of segment means
    conversion: Link
    value: Link
    reference: Floats
    ratio_quantiles: Floats
    evidence_prospects: float | None
    verdict: str
    detail: Mapping[str, float]
    segment_references: Mapping[str, Floats] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, rows: pd.DataFrame, values: pd.DataFrame, config: Config, threads: int, current: pd.DataFrame
    ) -> Self:
        """Learn from `rows` (`prospects.training_rows`) and `values` (`prospects.conversion_values`).

        `current` are the prospects at the training as_of (`prospects.prospect_rows`): the reference row is the
        median over them (over the newest snapshot where there are none). All snapshots of a prospect count the
        same: each is one exposure, and weighting prospects equally instead overstated conversions by 80 %.
        Raises ModelError with the counts below `prospect.minimum_prospects` distinct prospects, or
        `prospect.minimum_conversions` conversions or matured values: then use `segment_means`.
        """
        detail = _counts(rows, values)
        _refuse_small(detail, config)
        rows, values = _ordered(rows), _ordered(values)
        inputs = learn_inputs(rows, values, _newest(rows), config.known_at_first_contact)
        small = detail["prospects"] < SMALL_PROSPECTS
        people = current if len(current) else rows[rows["snapshot_date"] == rows["snapshot_date"].max()]
        present, segments = inputs.matrix(people), segment_of(people, config.segment).to_numpy(str)
        return cls(
            inputs=inputs,
            segment=None,
            conversion=conversion_link(rows, inputs, config.seed, threads),
            value=value_link(values, inputs, config.seed, threads),
            reference=medians(present),
            segment_references=by_segment(present, segments, medians),
            ratio_quantiles=ratio_quantiles(values, inputs, config.seed, threads),
            evidence_prospects=None,
            verdict=f"{'small data: stumps' if small else 'trees'} and linear model, averaged on the link; "
            f"{_counts_text(detail)}",
            detail=detail,
        )

    @classmethod
    def segment_means(cls, rows: pd.DataFrame, values: pd.DataFrame, config: Config) -> Self:
        """The fallback: conversion rate and mean value by segment, shrunk to the overall ones.

        (n x + k m) / (n + k), k estimated from the data. On the logit the rate falls or rises with the age of the
        contact, by ridge logistic regression on it alone: else those contacted long ago, of whom hardly any order, got
        the rate of the fresh. Conversions get half an event of prior, and the interval the 90 % point of the rate's
        Beta posterior instead of the rate. The reference is a prospect of no segment and of the median age. Raises
        ModelError without a single prospect or a single matured value: then nothing can be said.
        """
        detail = _counts(rows, values)
        if not detail["prospects"] or not detail["values"] or not float(values["value"].sum()):
            raise ModelError(
                f"No prospect value from {_counts_text(detail)}: expected at least one prospect and one value. "
                "Score prospects by judgement until conversions have matured."
            )
        rows, values = _ordered(rows), _ordered(values)
        segment = tuple(config.segment)
        people = _with_segment(_newest(rows), segment)
        encoder = AttributeEncoder.fit(people, {"segment": _SEGMENT} if segment else {})
        rate = (float(rows["converted"].sum()) + 0.5) / (len(rows) + 1.0)
        mean = float(values["value"].mean())
        rates, k = _shrunk_means(rows, "converted", encoder, segment, rate)
        means, _ = _shrunk_means(values, "value", encoder, segment, mean)
        ages = rows[[AGE.name]].to_numpy(dtype=np.float64)
        is_newest = (rows["snapshot_date"] == rows["snapshot_date"].max()).to_numpy()
        by_age = logistic(ages, rows["converted"].to_numpy(dtype=np.float64), (AGE,), exposures(rows))
        effects = effects_table(logit(rates) - logit(rate), 0.0)
        conversion = Link(None, beside(by_age, effects), 0.0)
        raw = conversion.raw(_segment_design(rows, encoder, segment).to_numpy(dtype=np.float64))
        conversion = replace(conversion, shift=logit_shift(raw, rate))
        value = Link(None, effects_table(np.log(np.append(mean, means) / mean), float(np.log(mean))), 0.0)
        expected = np.exp(value.raw(_segment_design(values, encoder, segment).to_numpy(dtype=np.float64)))
        ratios = values["value"].to_numpy(dtype=np.float64) / expected
        prospects_per_segment = detail["prospects"] / max(len(rates), 1)
        return cls(
            inputs=Inputs(encoder, LevelEffects({}), LevelEffects({})),
            segment=segment,
            conversion=conversion,
            value=value,
            reference=np.append(np.median(ages[is_newest]), np.zeros(len(rates))),
            ratio_quantiles=np.quantile(ratios, QUANTILES),
            evidence_prospects=min(prospects_per_segment + k, detail["prospects"]),
            verdict=f"segment means, interval widened; {_counts_text(detail)}",
            detail=detail,
        )

    def seen_from(self, segment: str | None) -> Self:
        """The same model held against the reference prospect of a segment; itself where that has none."""
        if segment is None or segment not in self.segment_references:
            return self
        return replace(self, reference=self.segment_references[segment])

    @property
    def reference_value(self) -> float:
        """`prospect_value` of the reference prospect."""
        X = self.reference[None, :]
        return float(expit(self.conversion.raw(X)[0]) * exp_value(self.value.raw(X))[0])

    @property
    def encoder(self) -> AttributeEncoder:
        """Which attributes are read, and how."""
        return self.inputs.encoder

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns of the attributions, in order."""
        return self.inputs.features

    def design(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The model's inputs, float64: one column per feature, the rows as given."""
        if self.segment is not None:
            return _segment_design(rows, self.encoder, self.segment)
        return self.inputs.frame(rows)

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One row per prospect of `rows` (`prospects.prospect_rows`), in their order.

        conversion_probability (within conversion_days), value_given_conversion (discounted to the first order,
        reporting currency), prospect_value = their product, and its 80 % interval: the 10 % and 90 % points of what
        is realised, nothing with 1 - P, else value_given_conversion x the out-of-fold ratios. The lower end is 0
        below P = 0.9, so coverage is then above 80 %; where less than one in ten converts the upper end is the
        expected value itself, which nine in ten do not reach.
        """
        X = self.design(rows).to_numpy(dtype=np.float64)
        probability = expit(self.conversion.raw(X))
        value = exp_value(self.value.raw(X))
        expected = probability * value
        upper = probability
        if self.evidence_prospects is not None:
            m = self.evidence_prospects
            upper = beta.ppf(1 - TAIL, probability * m + 0.5, (1 - probability) * m + 0.5)
        lower_point = value * self._ratio((probability - (1 - TAIL)) / probability)
        upper_point = value * self._ratio((upper - TAIL) / upper)
        return pd.DataFrame(
            {
                "customer_id": rows["customer_id"].to_numpy(),
                "conversion_probability": probability,
                "value_given_conversion": value,
                "prospect_value": expected,
                "prospect_value_low": np.minimum(
                    np.where(probability > 1 - TAIL, lower_point, 0.0), expected
                ),
                "prospect_value_high": np.maximum(np.where(upper > TAIL, upper_point, 0.0), expected),
            }
        )

    def attribute(self, rows: pd.DataFrame) -> dict[str, Attribution]:
        """Exact contributions of `features` against the reference: 'conversion' on the logit, 'value' on the log.

        `prospect_value` is exp of log P + log V; a chain from the two raw outputs to it belongs to the caller.
        """
        X = self.design(rows).to_numpy(dtype=np.float64)
        return {
            "conversion": self.conversion.attribute(X, self.reference),
            "value": self.value.attribute(X, self.reference),
        }

    def to_files(self) -> dict[str, str]:
        """File name -> text: one JSON file, and LightGBM's text format of each booster."""
        content = {
            "kind": self.KIND,
            "inputs": self.inputs.to_dict(),
            "segment": None if self.segment is None else list(self.segment),
            "reference": listed(self.reference),
            "segment_references": {name: listed(row) for name, row in self.segment_references.items()},
            "ratio_quantiles": self.ratio_quantiles.tolist(),
            "evidence_prospects": self.evidence_prospects,
            "verdict": self.verdict,
            "detail": dict(self.detail),
        }
        files = {}
        for name, link in (("conversion", self.conversion), ("value", self.value)):
            content[name] = {"linear": link.linear.to_dict() if link.linear else None, "shift": link.shift}
            if link.booster is not None:
                files[f"{name}.lightgbm.txt"] = link.booster.model_to_string()
        return files | {
            "prospect_value.json": json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1)
        }

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """The model that `to_files` wrote. The files must come from a verified place: LightGBM trusts its text."""
        content = json.loads(files["prospect_value.json"])
        links = {}
        for name in ("conversion", "value"):
            text, linear = files.get(f"{name}.lightgbm.txt"), content[name]["linear"]
            links[name] = Link(
                booster=None if text is None else lgb.Booster(model_str=text),
                linear=None if linear is None else Linear.from_dict(linear),
                shift=content[name]["shift"],
            )
        return cls(
            inputs=Inputs.from_dict(content["inputs"]),
            segment=None if content["segment"] is None else tuple(content["segment"]),
            conversion=links["conversion"],
            value=links["value"],
            reference=np.array([np.nan if x is None else x for x in content["reference"]], dtype=np.float64),
            ratio_quantiles=np.array(content["ratio_quantiles"], dtype=np.float64),
            evidence_prospects=content["evidence_prospects"],
            verdict=content["verdict"],
            detail=content["detail"],
            segment_references={
                name: np.array([np.nan if x is None else x for x in row], dtype=np.float64)
                for name, row in content.get("segment_references", {}).items()  # none in models of before
            },
        )

    def _ratio(self, level: Floats) -> Floats:
        return np.asarray(np.interp(level, QUANTILES, self.ratio_quantiles))


def combine(model_score: Floats, judgement_score: Floats, weight_ratio: float) -> Floats:
    """The score of the criterion, 0-100: (1 - w) model + w judgement where judged (not NaN), else the model's."""
    judged = (1 - weight_ratio) * model_score + weight_ratio * judgement_score
    return np.where(np.isnan(judgement_score), model_score, judged)


def baselines(
    rows: pd.DataFrame, values: pd.DataFrame, config: Config, test: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """What simpler methods say of `test`, learned from the same rows: NAME -> one row per prospect, in its order.

    mean_rate (the overall rate and value), segment_rate (`segment_means`), logistic (logistic regression for the
    conversion, Tweedie regression for the value); columns as in `predict`, without the interval.
    """
    rows, values = _ordered(rows), _ordered(values)
    encoder = AttributeEncoder.fit(_newest(rows), config.known_at_first_contact)
    inputs = Inputs(encoder, LevelEffects({}), LevelEffects({}))
    X, converted = inputs.matrix(rows), rows["converted"].to_numpy(dtype=np.float64)
    money = values["value"].to_numpy(dtype=np.float64)
    linear = logistic(X, converted, inputs.features, exposures(rows))
    relative = tweedie_regression(inputs.matrix(values), money / money.mean(), inputs.features)
    segment = ProspectValue.segment_means(rows, values, config).predict(test)
    test_inputs = inputs.matrix(test)
    found = {
        "mean_rate": (np.full(len(test), converted.mean()), np.full(len(test), money.mean())),
        "segment_rate": (
            segment["conversion_probability"].to_numpy(),
            segment["value_given_conversion"].to_numpy(),
        ),
        "logistic": (expit(linear.raw(test_inputs)), money.mean() * exp_value(relative.raw(test_inputs))),
    }
    return {
        name: pd.DataFrame(
            {
                "customer_id": test["customer_id"].to_numpy(),
                "conversion_probability": probability,
                "value_given_conversion": value,
                "prospect_value": probability * value,
            }
        )
        for name, (probability, value) in found.items()
    }


# --- rows ---------------------------------------------------------------------------------------------------------

_SEGMENT = Attribute(type="category", known_at="first_contact")


def _with_segment(rows: pd.DataFrame, segment: tuple[str, ...]) -> pd.DataFrame:
    return rows.assign(segment=segment_of(rows, segment)) if segment else rows


def _segment_design(rows: pd.DataFrame, encoder: AttributeEncoder, segment: tuple[str, ...]) -> pd.DataFrame:
    encoded = encoder.transform(_with_segment(rows, segment))
    encoded.insert(0, AGE.name, rows[AGE.name].astype("float64"))
    return encoded


def _shrunk_means(
    rows: pd.DataFrame, column: str, encoder: AttributeEncoder, segment: tuple[str, ...], overall: float
) -> tuple[Floats, float]:
    """Mean of `column` by level of the encoder, shrunk to `overall`, and the k of the shrinkage.

    k = variance within / variance between the levels (method of moments), n counted in customers: the snapshots of
    one are not so many observations.
    """
    flags = encoder.transform(_with_segment(rows, segment)).to_numpy(dtype=np.float64)
    observed = rows[column].to_numpy(dtype=np.float64)
    customers = rows["customer_id"]
    levels = [flags[:, j] == 1 for j in range(flags.shape[1])]
    n = np.array([customers[level].nunique() for level in levels], dtype=np.float64)
    means = np.array(
        [observed[level].mean() if level.any() else overall for level in levels], dtype=np.float64
    )
    within = float(observed.var())
    if len(levels) < 2 or not within:
        return np.full(len(levels), overall), float(len(rows))
    noise = within * float(np.mean(1.0 / np.maximum(n, 1.0)))
    between = max(float(np.var(means)) - noise, within / max(float(n.sum()), 1.0))
    k = within / between
    return (n * means + k * overall) / (n + k), k


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """In one order whatever order they came in, so that sums and folds are the same."""
    keys = [name for name in ("snapshot_date", "customer_id") if name in rows.columns]
    return rows.sort_values(keys, kind="stable").reset_index(drop=True)


def _newest(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates("customer_id", keep="last")


def _counts(rows: pd.DataFrame, values: pd.DataFrame) -> dict[str, float]:
    converted = rows["converted"].astype("boolean")
    if converted.isna().any():
        raise ModelError(
            f"Expected mature labels, found {int(converted.isna().sum())} rows without one. "
            "Take snapshots whose conversion_days have ended by as_of."
        )
    return {
        "rows": float(len(rows)),
        "prospects": float(rows["customer_id"].nunique()),
        "conversions": float(rows.loc[converted.to_numpy(dtype=np.bool_), "customer_id"].nunique()),
        "values": float(len(values)),
    }


def _counts_text(detail: Mapping[str, float]) -> str:
    return (
        f"{detail['prospects']:.0f} prospects in {detail['rows']:.0f} snapshots, {detail['conversions']:.0f} "
        f"conversions, {detail['values']:.0f} matured values"
    )


def _refuse_small(detail: Mapping[str, float], config: Config) -> None:
    settings = config.prospect
    needed = {
        "prospects": settings.minimum_prospects,
        "conversions": settings.minimum_conversions,
        "values": settings.minimum_conversions,
    }
    short = [f"{count} {name}" for name, count in needed.items() if detail[name] < count]
    if short:
        raise ModelError(
            f"Too little to learn a prospect model: {_counts_text(detail)}; needed are {', '.join(short)}. "
            "Segment means stand in; prospect.minimum_prospects and prospect.minimum_conversions set the bar."
        )
