"""Facts of one customer -> the texts of a card, in the configured language."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from clv import explain
from clv.cards.facts import Facts
from clv.explain.words import Words, fill
from clv.grades import WHY_MISSING
from clv.settings.grading import INACTIVE
from clv.tiers import GRACE

if TYPE_CHECKING:
    from clv.config import Config

FIRM, FAIR = 0.8, 0.6  # P(same tier next month) from which a tier is called firm, and fairly firm
_JUDGED = re.compile(
    r"judged (?:by sales alone: )?(?P<score>\S+) of 100 by (?P<by>.*?) on (?P<day>\d{4}-\d\d-\d\d)"
    r"(?:, counts until (?P<until>\d{4}-\d\d-\d\d))?(?:: (?P<note>.*))?$",
    re.DOTALL,
)
ARREARS_AFTER_DAYS = 30  # what the gate counts as overdue


@dataclass(frozen=True)
class Reason:
    """`points` with their sign, what they are for, and the parts of the sentence; `is_for` is null for the rest."""

    points: str
    is_for: bool | None
    fact: str
    beside: str
    sentence: str


@dataclass(frozen=True)
class Card:
    """Texts only, ready to be set: whatever a company's data holds stands in them as text.

    `figures`: name and text; `standards`: the heading and a row per criterion; `sections`: heading and lines.
    """

    title: str
    about: str
    tier: str
    standing: str
    notes: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]
    standards_heading: str
    standards: tuple[tuple[str, ...], ...]
    for_heading: str
    against_heading: str
    reasons: tuple[Reason, ...]
    rest: Reason | None
    total: str | None
    sections: tuple[tuple[str, tuple[str, ...]], ...]


def card(facts: Facts, config: Config) -> Card:
    """The card of one customer or prospect; reasons are told again where they were published in another language."""
    return _Writer(facts, config).card()


class _Writer:
    """The facts, and the words for them."""

    def __init__(self, facts: Facts, config: Config) -> None:
        self.facts, self.config, self.grade = facts, config, facts.grade
        self.words = Words.of(config)
        self.texts = self.words["card"]
        self.is_prospect = self.grade["value_source"] == "prospect"
        self.who = self._reference_customer()

    def card(self) -> Card:
        texts, grade, facts = self.texts, self.grade, self.facts
        told = explain.retell(
            facts.reasons,
            self.config,
            basis=grade["value_basis"] or "contribution",
            are_prospects=self.is_prospect,
        )
        reasons = [self._reason(row) for row in told.to_dict("records")]
        headings = texts["headings"]
        return Card(
            title=facts.name or grade["customer_id"],
            about=self._about(),
            tier=self._tier(grade["tier"]),
            standing=self._standing(),
            notes=tuple(self._notes()),
            figures=tuple(self._figures()),
            standards_heading=headings["standards"],
            standards=tuple(self._standards()),
            for_heading=headings["for"],
            against_heading=headings["against"],
            reasons=tuple(reason for reason in reasons if reason.is_for is not None),
            rest=next((reason for reason in reasons if reason.is_for is None), None),
            total=self._total(),
            sections=tuple(
                (headings[name], lines)
                for name, lines in (
                    ("changes", tuple(facts.changes["sentence"].dropna())),
                    ("paths", tuple(facts.paths["sentence"].dropna())),
                    ("history", tuple(self._spells())),
                )
                if lines
            ),
        )

    def _fill(self, template: Any, **parts: str) -> str:
        return str(fill(str(template), 1, **parts)[0])

    def _reference_customer(self) -> str:
        """Whom the score is held against: a typical customer, of its segment where all of the score is."""
        whole = self.facts.reasons.loc[self.facts.reasons["concept"] == "other", "values"].dropna()
        is_kindred = len(whole) > 0 and bool(json.loads(whole.iloc[0]).get("of_segment"))
        group = self.words["prospects" if self.is_prospect else "customers"]["all"]
        return str(group["kindred" if is_kindred else "typical"])

    def _tier(self, tier: str | None) -> str:
        """Tiers have the company's names, but for those who are in none."""
        return str(self.texts["inactive"]) if tier == INACTIVE else str(tier)

    def _about(self) -> str:
        grade = self.grade
        parts = [
            *([grade["customer_id"]] if self.facts.name else []),
            self.texts["kinds"][grade["value_source"]],
            *([grade["segment"]] if self.config.segment and grade["segment"] else []),
            self.config.company,
            self.words.day(self.facts.as_of),
        ]
        return " · ".join(parts)

    def _standing(self) -> str:
        """How the tier came from last month's, and how firm it is."""
        grade, texts = self.grade, self.texts
        parts = []
        if grade["tier_change"]:
            parts.append(
                self._fill(texts["moves"][grade["tier_change"]], before=self._tier(grade["previous_tier"]))
            )
        firmness = grade["firmness_ratio"]
        if firmness is not None and grade["tier_rule"] != "override":
            form = "firm" if firmness >= FIRM else "fair" if firmness >= FAIR else "weak"
            parts.append(self._fill(texts["firmness"][form], share=self._floored(min(firmness, 0.99))))
        return str(texts["list"]).join(parts)

    def _notes(self) -> Iterator[str]:
        """Why the tier is what it is; how the score stands; what holds for the account group."""
        texts, grade, words = self.texts, self.grade, self.words
        yield self._rule()
        if grade["composite_score"] is None:
            yield str(texts["no_score"])
        else:
            line = self._fill(
                texts["score"],
                score=words.number(grade["composite_score"], 1),
                who=self.who,
                baseline=words.number(grade["composite_baseline"], 1),
            )
            if grade["composite_rank"] is not None:
                line += str(texts["next"]) + self._fill(
                    texts["rank"],
                    rank=words.number(grade["composite_rank"], 0),
                    n=words.number(self.facts.ranked, 0),
                    share=self._floored(grade["composite_percentile"]),
                )
            yield line
        if self.facts.step is not None:
            yield self._first_order(self.facts.step)
        if grade["group_tier"] is not None:
            yield self._fill(
                texts["group"],
                group=grade["account_group_id"],
                tier=grade["group_tier"],
                n=words.counted("customer", self.facts.members),
            )

    def _first_order(self, step: Mapping[str, float | None]) -> str:
        """What was expected of the prospect, what its history says, and how much that moved for others."""
        texts, words = self.texts["first_order"], self.words
        money = {
            name: words.money(value)
            for name in ("prospect_value", "value_given_conversion", "clv")
            if (value := step[name]) is not None
        }
        probability = words.percent(step["conversion_probability"] or 0.0)
        line = self._fill(texts["known" if "clv" in money else "unknown"], probability=probability, **money)
        if step["customers"] is None or "clv" not in money:
            return line
        moved = {
            name: words.signed_percent(step[f"moved_{name}"] or 0.0)
            for name in ("mean", "quartile_1", "quartile_3")
        }
        others = self._fill(texts["others"], customers=words.counted("customer", step["customers"]), **moved)
        return line + str(self.texts["next"]) + others

    def _rule(self) -> str:
        """Which rule decided the tier, in words."""
        texts, grade, words, config = self.texts, self.grade, self.words, self.config
        rule, policy_tier = str(grade["tier_rule"]), grade["policy_tier"]
        if rule.startswith("gate:"):
            form = "gate_kept" if policy_tier == grade["tier"] else "gate"
            return self._gate(rule.removeprefix("gate:"), form)
        if rule.startswith(GRACE):
            return self._gate(rule.removeprefix(GRACE), "grace")
        if rule in ("band", "eligible_rank") and policy_tier == grade["tier"]:
            rule = "rank"
        parts = {
            "policy_tier": policy_tier or grade["tier"],
            "band": "±" + words.percent(config.tiers.band_ratio),
            "runs": words.counted("month", config.tiers.confirmation_runs),
            "coverage": words.percent(grade["coverage_ratio"] or 0.0),
            "minimum": words.percent(config.composite.minimum_coverage_ratio),
            "months": words.counted("month", config.tiers.active_months),
        }
        decision = self.facts.decision
        if rule == "override" and decision is None:
            rule = "override_unexplained"
        if rule == "override" and decision is not None:
            until = words.day(date.fromisoformat(decision["until"]))
            parts |= {"by": decision["by"], "reason": decision["reason"].rstrip(" ."), "until": until}
        return self._fill(texts["rules"][rule], **parts)

    def _gate(self, gate: str, form: str) -> str:
        """Which gate keeps the customer below key, which tier the score would give, and what opens the gate."""
        texts, grade, words, gates = self.texts, self.grade, self.words, self.config.gates
        late, overdue = gates.late_payment_probability or 0.0, gates.overdue_balance_ratio or 0.0
        opens_at = 1 - self.config.tiers.band_ratio
        parts = {
            "contribution": words.figure(_number(grade["contribution_margin"]), "money"),
            "probability": words.figure(_number(grade["late_payment_probability"]), "probability"),
            "late_after": words.counted("day", self.config.payment.late_after_days),
            "late_limit": words.percent(late),
            "late_opens": words.percent(late * opens_at),
            "arrears_after": words.counted("day", ARREARS_AFTER_DAYS),
            "arrears_limit": words.percent(overdue),
            "arrears_opens": words.percent(overdue * opens_at),
            "bad_debt": words.counted("month", gates.bad_debt_months or 0),
        }
        why, opens = (self._fill(texts[part][gate], **parts) for part in ("gates", "opens"))
        return self._fill(texts["rules"][form], policy_tier=str(grade["policy_tier"]), why=why, opens=opens)

    def _figures(self) -> Iterator[tuple[str, str]]:
        """What is expected and what was, each with its name; what is not known is left out."""
        grade, words, texts = self.grade, self.words, self.texts["figures"]
        known, money, separator = _known(grade), words.money, str(self.texts["list"])
        if known("prospect_value"):
            yield (
                texts["prospect"]["name"],
                self._fill(
                    texts["prospect"]["text"],
                    value=money(grade["prospect_value"]),
                    low=money(grade["prospect_value_low"]),
                    high=money(grade["prospect_value_high"]),
                    until=words.day(grade["prospect_valid_until"]),
                ),
            )
            days = words.counted("day", self.config.prospect.conversion_days)
            yield (
                self._fill(texts["conversion"]["name"], days=days),
                self._fill(
                    texts["conversion"]["text"], probability=words.percent(grade["conversion_probability"])
                ),
            )
        horizon = self.config.lifetime_value.horizon_months
        if known("clv"):
            yield (
                self._fill(texts["value"]["name"], horizon=words.counted("month", horizon)),
                self._fill(
                    texts["value"]["text"],
                    value=money(grade["clv"]),
                    low=money(grade["clv_low"]),
                    high=money(grade["clv_high"]),
                ),
            )
            further = [
                self._fill(
                    texts["outlook"]["beyond" if row["is_extrapolation"] else "text"],
                    horizon=words.counted("month", row["horizon_months"]),
                    value=money(row["clv"]),
                )
                for row in self.facts.value_outlook.to_dict("records")
                if row["horizon_months"] != horizon
            ]
            if further:
                yield texts["outlook"]["name"], " · ".join(further)
        if known("probability_active", "expected_orders"):
            yield (
                texts["buying"]["name"],
                self._fill(
                    texts["buying"]["text"],
                    probability=self._floored(grade["probability_active"]),
                    orders=words.number(grade["expected_orders"], 1),
                    horizon=words.counted("month", horizon),
                ),
            )
        if known("late_payment_probability", "expected_days_late", "amount_at_risk"):
            yield (
                texts["payment"]["name"],
                self._fill(
                    texts["payment"]["text"],
                    probability=words.percent(grade["late_payment_probability"]),
                    late_after=words.counted("day", self.config.payment.late_after_days),
                    days=words.counted("day", grade["expected_days_late"]),
                    money=money(grade["amount_at_risk"]),
                ),
            )
        if known("on_time_share_ratio", "mean_days_beyond_terms"):
            record = self._fill(
                texts["record"]["text"],
                share=words.percent(grade["on_time_share_ratio"]),
                days=words.figure(grade["mean_days_beyond_terms"], "days_beyond"),
            )
            if known("main_delay_reason"):
                reason = grade["main_delay_reason"].replace("_", " ")
                record += separator + self._fill(texts["record"]["reason"], reason=reason)
            yield texts["record"]["name"], record

    def _standards(self) -> Iterator[tuple[str, ...]]:
        """The heading, then a row per criterion: figure, score, weight, how many lie behind, and what is to be said."""
        if self.facts.criteria.empty:
            return
        columns = self.texts["columns"]
        names = ("standard", "figure", "score", "weight", "percentile", "note")
        yield tuple(self.words.opening(str(columns[name])) for name in names)
        for row in self.facts.criteria.to_dict("records"):
            is_measured, weight = not pd.isna(row["score"]), _number(row["weight"])
            yield (
                self.words.opening(self.words.criterion_name(row["criterion"]) or row["criterion"]),
                self.words.figure(_number(row["value"]), self._unit(row))
                if not pd.isna(row["value"])
                else "–",
                self.words.number(row["score"], 1) if is_measured else "–",
                self.words.percent(weight) if weight > 0 else "–",
                self._floored(row["percentile"]) if is_measured else "–",
                self._note(row, is_measured=is_measured, weight=weight),
            )

    def _unit(self, row: dict[str, Any]) -> str:
        """In which unit the value of a criterion is shown."""
        criterion = row["criterion"]
        if criterion == "payment" and self.grade["late_payment_probability"] is not None:
            return "probability"
        if criterion in ("payment", "payment_record"):
            return "ratio"
        own = self.config.standards.get(criterion)
        if own is not None:
            return "count" if own.judgement else own.unit
        is_pieces = criterion == "order_amount" and self.config.order_amount.measure == "quantity"
        return "number" if is_pieces else "money"

    def _note(self, row: dict[str, Any], *, is_measured: bool, weight: float) -> str:
        """Why there is no figure, or what stood in; that it does not count."""
        criterion, why = row["criterion"], row["why"]
        missing, instead = self.texts["missing"], self.texts["instead"]
        if not is_measured:
            if why not in (WHY_MISSING.get(criterion), "not on record"):
                return str(missing["not_here"])
            return str(missing.get(criterion, missing["other"]))
        if not pd.isna(why):
            if criterion == "prospect":
                alone = [str(instead["judged"])] if pd.isna(row["value"]) else []
                return str(self.texts["list"]).join([*alone, *self._judgement(why)])
            has_model = criterion == "lifetime_value" and self.grade["clv"] is not None
            kind = "purchases" if has_model else "value" if criterion == "lifetime_value" else "payment"
            return str(instead[kind])
        return "" if weight > 0 else str(self.texts["shown_only"])

    def _judgement(self, why: str) -> Iterator[str]:
        """Who judged, when and until when, as `criteria.why` has it."""
        found, texts = _JUDGED.match(why), self.texts["instead"]
        if found is None:
            return
        day, until = (
            found[name] and self.words.day(date.fromisoformat(found[name])) for name in ("day", "until")
        )
        score = self.words.number(float(found["score"]), 0)
        yield self._fill(texts["judgement"], score=score, by=found["by"], day=str(day))
        if until:
            yield self._fill(texts["until"], until=until)
        if found["note"]:
            yield self._fill(texts["note"], note=found["note"])

    def _reason(self, row: dict[str, Any]) -> Reason:
        points = self.words.points(np.array([row["points"]]))[0]
        if row["concept"] == "other":
            return Reason(points, None, row["sentence"], "", row["sentence"])
        beside = [] if pd.isna(row["peer_fact"]) else [row["peer_fact"]]
        criterion = self.words.criterion_name(row["criterion"])
        if criterion and self.facts.reasons["criterion"].nunique() > 1:
            beside.append(criterion)
        return Reason(points, row["direction"] == "for", row["fact"], " · ".join(beside), row["sentence"])

    def _total(self) -> str | None:
        """That baseline and points make the score, to their first decimal."""
        score, baseline = self.grade["composite_score"], self.grade["composite_baseline"]
        if score is None:
            return None
        rounded = round(round(score, 1) - round(baseline, 1), 1)
        return self._fill(
            self.texts["sum"],
            baseline=self.words.number(baseline, 1),
            who=self.who,
            points=self.words.points(np.array([rounded]))[0],
            score=self.words.number(score, 1),
        )

    def _spells(self) -> Iterator[str]:
        for row in self.facts.tier_history.to_dict("records"):
            is_open = pd.isna(row["valid_to"])
            yield self._fill(
                self.texts["spell"]["open" if is_open else "closed"],
                tier=self._tier(row["tier"]),
                start=self.words.day(row["valid_from"]),
                end="" if is_open else self.words.day(row["valid_to"]),
            )

    def _floored(self, ratio: float) -> str:
        """A share that is not said to be all unless it is."""
        return self.words.percent(np.floor(ratio * 100 + 1e-9) / 100)


def _known(grade: Any) -> Any:
    return lambda *names: all(grade[name] is not None for name in names)


def _number(value: Any) -> float:
    return float("nan") if value is None or pd.isna(value) else float(value)
