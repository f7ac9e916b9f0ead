"""How customers are graded: which standards count and how much, how tiers are cut, what keeps somebody below key."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from clv.pairwise import compare
from clv.settings.base import Count, NotNegative, Positive, Ratio, Section
from clv.settings.languages import Label
from clv.tables import CRITERIA

SCALES = ("log_z", "log_percentile")
# Scales that people ask for, and why they are not there (shares of the realised value that the top 1 % captured).
REFUSED_SCALES = {
    "percentile": "averaged percentiles lose the distances that decide who is in the top 1 %: on four real data sets "
    "its captured value fell from 0.20/0.29/0.17/0.06 to 0.10/0.10/0.10/0.04",
    "min_max": "min-max lets one largest customer press all others together: measured, the top 20 % captured 0.47 of "
    "the value instead of 0.72",
}
ECONOMIC = "economic_value"
DEFAULT_WEIGHTS = {"lifetime_value": 0.5, "payment": 0.3, "contribution": 0.2, "order_amount": 0.0}
INACTIVE = "inactive"
# What thresholds and shares of value can be of, beside declared attributes of type number.
MEASURES = ("composite_score", "clv", "contribution_margin", "order_amount", "revenue")


def _ratio(value: Any) -> Any:
    """A ratio of importance, which may be written as 1/3."""
    if isinstance(value, str):
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            return value
    return value


class Standard(Section):
    """A further criterion of customers: a declared numeric attribute, or the judgement of a person (0-100).

    `direction`: whether a `higher` or a `lower` figure speaks for a customer. Its weight stands in composite.weights.
    """

    attribute: str | None = None
    judgement: bool = False
    direction: Literal["higher", "lower"] = "higher"
    label: Label
    unit: Literal["number", "money", "ratio"] = "number"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.attribute is None) != self.judgement:
            raise ValueError("needs either `attribute: NAME` or `judgement: true`")
        return self


class CompositeSettings(Section):
    """`weighted`: scores of the criteria, averaged by weight; `economic`: one figure in money.

    `pairwise` (judge -> `one/other` -> ratio) gives the weights where they are not given themselves.
    """

    method: Literal["weighted", "economic"] = "weighted"
    scale: Literal["log_z", "log_percentile"] = "log_z"
    weights: dict[str, NotNegative] = DEFAULT_WEIGHTS
    pairwise: dict[str, dict[str, Annotated[Positive, BeforeValidator(_ratio)]]] = {}
    minimum_coverage_ratio: Ratio = 0.6
    default_given_late_ratio: Ratio = 0.05

    @field_validator("scale", mode="before")
    @classmethod
    def _scale_is_fair(cls, value: Any) -> Any:
        asked = str(value).replace("-", "_")
        refused = REFUSED_SCALES.get("min_max" if asked == "minmax" else asked.removesuffix("s"))
        if refused:
            raise ValueError(f"{value!r} is refused: {refused}. Choose {' or '.join(SCALES)}")
        return value

    @model_validator(mode="after")
    def _weights_make_sense(self) -> Self:
        given = self.weights != DEFAULT_WEIGHTS  # a resolved configuration has every field set
        if self.pairwise and given:
            raise ValueError("give weights or pairwise, not both")
        if self.method == "economic" and (given or self.pairwise):
            raise ValueError("weights: method economic has none; its figure is in money. Remove them")
        if self.method == "economic" and self.scale != "log_z":
            raise ValueError("scale: method economic is one figure; its order is the same on every scale")
        total = sum(self.resolved.values())
        if abs(total - 1) > 1e-9:
            listed = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items())
            raise ValueError(f"weights sum to {total:.2f}, expected 1.00 ({listed})")
        return self

    @property
    def resolved(self) -> dict[str, float]:
        """Weight of each criterion, however it was given; together 1."""
        if self.method == "economic":
            return {ECONOMIC: 1.0}
        return dict(compare(self.pairwise).weights) if self.pairwise else dict(self.weights)

    @property
    def counts_payment(self) -> bool:
        """Whether late money has a place in the composite already."""
        weights = self.resolved
        return self.method == "economic" or weights.get("payment", 0) + weights.get("payment_record", 0) > 0


_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "three_classes": {"shares_ratio": {"A": 0.20, "B": 0.30, "C": 0.50}, "key": ["A"]},
    "value_shares": {
        "shares_ratio": {"A": 0.80, "B": 0.15, "C": 0.05},
        "key": ["A"],
        "measure": "contribution_margin",
    },
}


class TierSettings(Section):
    """How the ranking is cut; tiers are named from the highest down, in any language.

    `pyramid` and `three_classes`: shares of the active customers; `value_shares`: the first ones who together hold so
    much of `measure`; `counts`: so many customers; `thresholds`: who reaches so much of `measure`. What the last two
    leave over is `basic`. Prospects have a pyramid of their own.
    """

    policy: Literal["pyramid", "three_classes", "value_shares", "counts", "thresholds"] = "pyramid"
    shares_ratio: dict[str, Ratio] = {"important": 0.01, "main": 0.19, "ordinary": 0.30, "small": 0.50}
    counts: dict[str, Count] = {}
    thresholds: dict[str, float] = {}
    group_thresholds: dict[str, float] = {}
    group_measure: Literal["sum", "average"] = "sum"
    measure: str = "composite_score"
    basic: str = "basic"
    prospect_shares_ratio: dict[str, Ratio] = {"hot": 0.01, "warm": 0.19, "cool": 0.30, "cold": 0.50}
    key: list[str] = ["important", "main"]
    prospect_key: list[str] = ["hot", "warm"]
    band_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.20
    confirmation_runs: Count = 1
    active_months: Count = 24
    firmness_months: Count = 6

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        policy = given.get("policy", "pyramid")
        filled = dict(_PRESETS.get(policy, {})) | given
        if policy in ("counts", "thresholds") and "key" not in given and isinstance(given.get(policy), dict):
            filled["key"] = list(given[policy])[:1]
        return filled

    @property
    def names(self) -> tuple[str, ...]:
        """The tiers of customers, highest first."""
        if self.policy == "counts":
            return (*self.counts, self.basic)
        return (*self.thresholds, self.basic) if self.policy == "thresholds" else tuple(self.shares_ratio)

    @model_validator(mode="after")
    def _cuts_make_sense(self) -> Self:
        for field in ("shares_ratio", "prospect_shares_ratio"):
            shares: dict[str, float] = getattr(self, field)
            if abs(sum(shares.values()) - 1) > 1e-9:
                raise ValueError(f"{field} sum to {sum(shares.values()):.4f}, expected 1.00")
            if INACTIVE in shares:
                raise ValueError(f"{field}: 'inactive' is kept for lapsed customers; choose another name")
        for policy, fields in {
            "counts": ("counts",), "thresholds": ("thresholds", "group_thresholds"),
        }.items():  # fmt: skip
            if policy == self.policy and not getattr(self, policy):
                raise ValueError(f"{policy}: the policy {policy} needs at least one, such as {{gold: 100}}")
            for field in fields:
                if policy != self.policy and getattr(self, field):
                    raise ValueError(f"{field}: belongs to the policy {policy}, the policy is {self.policy}")
        if len(set(self.names)) != len(self.names) or INACTIVE in self.names:
            raise ValueError(f"tiers: expected distinct names, none of them 'inactive', found {self.names}")
        for field in ("thresholds", "group_thresholds"):
            limits = list(getattr(self, field).values())
            if limits != sorted(set(limits), reverse=True):
                raise ValueError(f"{field}: expected falling limits, highest tier first, found {limits}")
        if self.group_thresholds and list(self.group_thresholds) != list(self.thresholds):
            raise ValueError(f"group_thresholds: expected the tiers {list(self.thresholds)}, in this order")
        for field, names in (("key", self.names), ("prospect_key", tuple(self.prospect_shares_ratio))):
            marked: list[str] = getattr(self, field)
            if marked != list(names)[: len(marked)]:
                raise ValueError(
                    f"{field} must be the highest tiers, in order: {list(names)[: len(marked)]}, not {marked}"
                )
        return self


class GateSettings(Section):
    """What keeps a customer below key whatever its score; null, or false, switches a gate off.

    A gate by a limit that shut opens once the figure is tiers.band_ratio below its limit. With `month_of_grace` late
    payment and arrears cost a key customer its tier only where the month before had them too.
    """

    negative_contribution: bool = True
    late_payment_probability: Ratio | None = 0.5
    overdue_balance_ratio: Ratio | None = 0.3
    bad_debt_months: Count | None = 24
    blocked: bool = True
    month_of_grace: bool = False


class QuadrantSettings(Section):
    """Size × loyalty. Large: the first `large_share_ratio` of the active customers by `size`; loyal: stays and pays.

    `names` may be in any language; they are those of large and loyal, large and disloyal, small and loyal, small and
    disloyal.
    """

    size: Literal["contribution_margin", "order_amount", "clv"] = "contribution_margin"
    large_share_ratio: Ratio = 0.20
    minimum_probability_active: Ratio = 0.5
    maximum_late_payment_probability: Ratio = 0.3
    minimum_on_time_share_ratio: Ratio = 0.5
    names: tuple[str, str, str, str] = ("large_loyal", "large_disloyal", "small_loyal", "small_disloyal")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"names: expected four different names, found {self.names}")
        return self


class SenseSettings(Section):
    """When tiers are worth having: more customers than one can know, who come back, and of whom few hold most."""

    manageable_customers: Count = 100
    repeat_share_ratio: Ratio = 0.30
    top_20_share_ratio: Ratio = 0.50


def known_criteria(standards: Mapping[str, Standard]) -> tuple[str, ...]:
    """Criteria of customers that may have a weight."""
    return (*(name for name in CRITERIA if name not in ("prospect", ECONOMIC)), *standards)
