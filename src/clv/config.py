"""Settings of one company: frozen, typed, checked. Every default of the product is written here, once."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from clv.errors import ConfigError
from clv.settings import languages
from clv.settings.base import Count, Days, Name, NotNegative, Positive, Ratio, Section
from clv.settings.grading import (
    MEASURES,
    CompositeSettings,
    GateSettings,
    QuadrantSettings,
    SenseSettings,
    Standard,
    TierSettings,
    known_criteria,
)
from clv.tables import CORE, CRITERIA

# Characteristics of people that must not decide how they are served.
PROTECTED = re.compile(
    r"age|birth|birthday|birthdate|sex|gender|nationality|ethnic\w*|religio\w*|health|disab\w+|marital|married"
)

# What a company decides to spend on a lead says nothing of the lead.
OUR_DECISION = re.compile(
    r"spen[dt]|spending|costs?|budget|bids?|discounts?|rebates?|vouchers?|coupons?|bonus|incentives?|promotions?|promo|"
    r"campaigns?|commissions?|cac"
)


class Source(Section):
    """Where one core table comes from, and how its columns are named there.

    `path` is a file (relative to the working folder, `package://module/file`; ${NAME} is taken from the environment),
    `table` a table or `query` a SELECT in the DuckDB file `database` (default: the company's warehouse). `columns`
    maps core names to SQL expressions over the source's columns; without it the source already uses the core names.
    """

    path: str | None = None
    table: str | None = None
    query: str | None = None
    database: str | None = None
    format: Literal["csv", "whitespace", "parquet"] | None = None
    delimiter: str = ","
    date_format: str | None = None
    columns: dict[str, str] = {}
    where: str | None = None
    exact_duplicates: Literal["keep", "set_aside"] = "keep"

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        given = [name for name in ("path", "table", "query") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of path, table, query; found {given or 'none'}")
        return self


class Attribute(Section):
    """A further column of `customers`, with its type and the moment at which it is known.

    Only what is known at first contact is a feature; `our_decision` is what the company chose to do for or spend on
    a lead. `effect`: with a higher number (a set flag) the value of a prospect never falls, or never rises.
    `checked`: why the attribute is the lead's own and known at first contact although its name or its figures say
    otherwise. `label`: what people call it, one text or one by language, `{en: industry, zh: 行业}`. One that is
    `for_reporting` is read by reports alone, never by a model, a segment, a standard or a policy; so it may be a
    protected characteristic, of which `fairness.groups` shows how its groups are treated.
    """

    type: Literal["category", "number", "flag"]
    known_at: Literal["first_contact", "after_contact", "our_decision"]
    label: languages.Label | None = None
    effect: Literal["raises", "lowers"] | None = None
    checked: Annotated[str, Field(min_length=1)] | None = None
    for_reporting: bool = False

    @model_validator(mode="after")
    def _only_quantities_have_an_effect(self) -> Self:
        if self.effect is not None and self.type == "category":
            raise ValueError("effect: is of a number or a flag; a category has no higher values")
        return self


class ContractSettings(Section):
    """When set-aside rows stop the run: more than this share of a table, and more than this many rows."""

    maximum_rejected_ratio: Ratio = 0.05
    tolerated_rows: Annotated[int, Field(ge=0)] = 10


class EngineSettings(Section):
    threads: Count = 2
    memory_limit: str = "4GB"
    temp_directory: str | None = None


class LifetimeValueSettings(Section):
    horizon_months: Count = 12
    discount_rate_annual_ratio: NotNegative = 0.10
    outlook_months: list[Count] = [3, 6, 12, 120]
    purchase_model: Literal["pareto_nbd", "bgnbd", "mbgnbd", "auto"] = "pareto_nbd"
    snapshots: Count = 4
    snapshot_step_days: Count = 30
    min_history_days: Count = 60
    num_leaves: Annotated[int, Field(ge=2, le=11)] = 7
    rounds: Count = 200
    learning_rate: Positive = 0.03
    tweedie_variance_power: Annotated[float, Field(gt=1, lt=2)] = 1.2


class PaymentSettings(Section):
    """`late_after_days` is the threshold that grades; `thresholds_days` are reported beside it."""

    late_after_days: Count = 30
    thresholds_days: list[Days] = [0, 30, 60, 90]
    grace_days: Days = 0
    default_terms_days: Days = 30
    settled_tolerance_ratio: Ratio = 0.01
    settled_tolerance_amount: NotNegative = 5.0
    cap_days: Count = 180
    record_months: Count = 12
    training_months: Count = 24
    outlook_days: Count = 90
    minimum_late_invoices: Count = 50
    minimum_invoices: Count = 500

    @model_validator(mode="after")
    def _thresholds_below_the_cap(self) -> Self:
        for days in (self.late_after_days, *self.thresholds_days):
            if days >= self.cap_days:
                raise ValueError(f"thresholds lie below cap_days ({self.cap_days}), found {days}")
        return self


class OrderAmountSettings(Section):
    measure: Literal["amount", "quantity"] = "amount"
    months: Literal[12, 24] = 12


class ContributionSettings(Section):
    """Rules of the margin ladder; rates in the reporting currency."""

    default_margin_ratio: Annotated[float, Field(gt=-1, lt=1)] | None = None
    category_margin_ratio: dict[str, Annotated[float, Field(gt=-1, lt=1)]] = {}
    order_cost: NotNegative = 0.0
    line_cost: NotNegative = 0.0
    freight_ratio: Ratio = 0.0
    return_line_cost: NotNegative = 0.0
    service_rates: dict[str, NotNegative] = {}
    dispute_cost: NotNegative = 0.0
    capital_rate_annual_ratio: NotNegative = 0.08
    loss_given_default_ratio: Ratio = 0.5
    late_money: Literal["auto", "contribution", "never"] = "auto"


class ProspectSettings(Section):
    conversion_days: Count = 90
    value_months: Count = 12
    snapshot_step_days: Count = 30
    training_months: Count = 36
    judgement_weight_ratio: Ratio = 0.3
    valid_days: Count = 60
    minimum_prospects: Count = 100
    minimum_conversions: Count = 20


class FairnessSettings(Section):
    """What reports on prospects compare; neither makes an attribute a feature.

    `groups`: attributes whose groups are held against each other; `worked_attribute`: a flag that says whether sales
    worked a prospect.
    """

    groups: list[str] = []
    worked_attribute: str | None = None


class ExplainSettings(Section):
    """`reference`: whom scores are explained against, the company's typical customer or that of the own segment."""

    reasons_for: Count = 3
    reasons_against: Count = 2
    minimum_share_ratio: Ratio = 0.10
    minimum_peers: Count = 20
    paths: bool = True
    reference: Literal["company", "segment"] = "company"


class MlflowSettings(Section):
    tracking_uri: str = "sqlite:///models/mlflow.db"
    artifact_dir: str = "models/artifacts"


class WarehouseSettings(Section):
    path: str | None = None


class Config(Section):
    """Everything that one company can choose. Built by `load`; logged whole with every run."""

    company: Name
    language: str = languages.STANDARD
    reporting_currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    time_zone: str = "UTC"
    seed: int = 7
    example_months: list[date] = []
    left_truncated_before: date | None = None
    sources: dict[str, Source]
    attributes: dict[Name, Attribute] = {}
    segment: list[str] = []
    standards: dict[Name, Standard] = {}
    contract: ContractSettings = ContractSettings()
    engine: EngineSettings = EngineSettings()
    lifetime_value: LifetimeValueSettings = LifetimeValueSettings()
    payment: PaymentSettings = PaymentSettings()
    order_amount: OrderAmountSettings = OrderAmountSettings()
    contribution: ContributionSettings = ContributionSettings()
    prospect: ProspectSettings = ProspectSettings()
    fairness: FairnessSettings = FairnessSettings()
    composite: CompositeSettings = CompositeSettings()
    tiers: TierSettings = TierSettings()
    gates: GateSettings = GateSettings()
    quadrants: QuadrantSettings = QuadrantSettings()
    sense: SenseSettings = SenseSettings()
    explain: ExplainSettings = ExplainSettings()
    mlflow: MlflowSettings = MlflowSettings()
    warehouse: WarehouseSettings = WarehouseSettings()

    @field_validator("language")
    @classmethod
    def _language_is_complete(cls, language: str) -> str:
        languages.content(language)
        return language

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        unknown = sorted(set(self.sources) - set(CORE))
        if unknown:
            raise ValueError(f"sources: unknown table {_with_nearest(unknown[0], list(CORE))}")
        if "order_lines" not in self.sources:
            raise ValueError("sources: order_lines is required (customers may be derived from it)")
        if "payments" in self.sources and "invoices" not in self.sources:
            raise ValueError("sources.payments: needs sources.invoices; a payment belongs to an invoice")
        if self.attributes and "customers" not in self.sources:
            raise ValueError("attributes: need sources.customers; nothing else holds them")
        for name, source in self.sources.items():
            allowed = [*CORE[name].names, *(self.attributes if name == "customers" else [])]
            for column in source.columns:
                if column not in allowed:
                    raise ValueError(
                        f"sources.{name}.columns: unknown column {_with_nearest(column, allowed)}"
                    )
        mapped = self.sources["customers"].columns if "customers" in self.sources else {}
        for name, attribute in self.attributes.items():
            named = (name, mapped.get(name, "").strip('"'))
            protected = any(_names(PROTECTED, column) for column in named)
            if protected and not attribute.for_reporting:
                raise ValueError(
                    f"attributes.{name}: a person's age, sex, nationality or health is refused as a feature; "
                    "remove it, or declare it for_reporting: true"
                )
            is_feature = attribute.known_at == "first_contact" and attribute.type != "category"
            if is_feature and not attribute.checked and any(_names(OUR_DECISION, column) for column in named):
                raise ValueError(
                    f"attributes.{name}: what is spent on a lead is the company's decision, not the lead's trait, and "
                    "refused as a feature; declare it known_at: our_decision, or, where it is the lead's own, say "
                    "under checked how that is known"
                )
            if name in CORE["customers"].names:
                raise ValueError(f"attributes.{name}: is a core column already; choose another name")
        for name in self.segment:
            if name not in self.attributes or self.attributes[name].type != "category":
                raise ValueError(f"segment: {name!r} must be a declared attribute of type category")
        self._grading_agrees()
        self._reports_agree()
        if self.warehouse_path.stem == "clv":
            raise ValueError("warehouse.path: a file named clv.duckdb cannot hold the schema clv; rename it")
        return self

    def _grading_agrees(self) -> None:
        """Own standards, weights and measures name what there is."""
        for name, standard in self.standards.items():
            if name in CRITERIA or name in self.attributes or name in MEASURES:
                raise ValueError(f"standards.{name}: the name is taken; choose another")
            declared = self.attributes.get(standard.attribute or "")
            if standard.attribute is not None and (declared is None or declared.type != "number"):
                raise ValueError(
                    f"standards.{name}.attribute: {standard.attribute!r} must be a declared attribute of type number"
                )
        allowed = known_criteria(self.standards)
        for name in self.composite.resolved if self.composite.method == "weighted" else ():
            if name not in allowed:
                raise ValueError(
                    f"composite.weights: unknown criterion {name!r}; known are {', '.join(allowed)}"
                )
        numbers = [name for name, attribute in self.attributes.items() if attribute.type == "number"]
        if self.tiers.measure not in (*MEASURES, *numbers):
            raise ValueError(
                f"tiers.measure: unknown measure {_with_nearest(self.tiers.measure, [*MEASURES, *numbers])}"
            )

    def _reports_agree(self) -> None:
        """What reports compare is declared, and what is for reporting alone decides nothing."""
        worked = self.fairness.worked_attribute
        if worked is not None and (worked not in self.attributes or self.attributes[worked].type != "flag"):
            raise ValueError(
                f"fairness.worked_attribute: {worked!r} must be a declared attribute of type flag"
            )
        for name in self.fairness.groups:
            if name not in self.attributes or self.attributes[name].type == "number":
                raise ValueError(
                    f"fairness.groups: {name!r} must be a declared attribute of type category or flag"
                )
        deciding = {*self.segment, self.tiers.measure, *(own.attribute for own in self.standards.values())}
        for name, attribute in self.attributes.items():
            if attribute.for_reporting and name in deciding:
                raise ValueError(
                    f"attributes.{name}: is for_reporting, so no segment, standard or tiers.measure may read it"
                )

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each criterion in the composite, together 1."""
        return self.composite.resolved

    @property
    def warehouse_path(self) -> Path:
        return Path(self.warehouse.path or f"data/{self.company}.duckdb")

    @property
    def known_at_first_contact(self) -> dict[str, Attribute]:
        """Attributes a model of prospects, or of young customers, may use."""
        return {
            name: attribute
            for name, attribute in self.attributes.items()
            if attribute.known_at == "first_contact" and not attribute.for_reporting
        }

    @property
    def lacks_payments(self) -> bool:
        """Whether invoices are mapped without payments: nobody can say then which are paid."""
        return "invoices" in self.sources and "payments" not in self.sources

    @property
    def charges_late_money(self) -> bool:
        """Whether contribution pays for late money; `auto`: only where the composite does not count payment."""
        if self.contribution.late_money == "auto":
            return not self.composite.counts_payment
        return self.contribution.late_money == "contribution"

    @property
    def hash(self) -> str:
        """SHA-256 of the resolved settings, without where and on how many threads they run."""
        content = self.model_dump(mode="json", exclude={"engine", "mlflow", "warehouse", "example_months"})
        # Not sorted: the order of the tiers is a setting.
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Settings in the YAML file at `path`, with `overrides` such as `tiers.band_ratio=0.1` on top.

    Raises ConfigError naming the key, what was found and the nearest known key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"Expected a configuration file at {path}: {error.strerror}. See configs/ for examples."
        ) from error
    try:
        content = yaml.safe_load(text)
        for override in overrides:
            _apply(content, override)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(content).__name__}.")
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentences(error, str(path)))) from error


def _names(pattern: re.Pattern[str], column: str) -> bool:
    """Whether one of the words in a column's name fits the pattern; an expression is no name."""
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", column).lower().split("_")
    return column.isidentifier() and any(pattern.fullmatch(word) for word in words)


def _apply(content: Any, override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"--set expects key=value such as tiers.band_ratio=0.1, found {override!r}.")
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(content, dict):
            break
        content = content.setdefault(parent, {})
    if not isinstance(content, dict):
        raise ConfigError(f"--set {key}: {'.'.join(parents)} is a value, not a section.")
    content[last] = yaml.safe_load(value)


def _sentences(error: ValidationError, path: str) -> list[str]:
    sentences = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _known_keys(item["loc"][:-1])
            sentences.append(f"{path}: unknown key {_with_nearest(where, known, str(item['loc'][-1]))}.")
        elif item["type"] == "missing":
            sentences.append(f"{path}: {where} is required and absent.")
        else:
            message = item["msg"].removeprefix("Value error, ")
            found = (
                ""
                if isinstance(item["input"], dict) or item["type"] == "value_error"
                else f", found {item['input']!r}"
            )
            sentences.append(f"{path}: {where + ': ' if where else ''}{message}{found}.")
    return sentences


_MAPPINGS: dict[str, type[BaseModel]] = {"sources": Source, "attributes": Attribute, "standards": Standard}


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Field names of the section at `location`; some are mappings of sections."""
    model: type[BaseModel] = Config
    for part in location:
        if part in _MAPPINGS:
            model = _MAPPINGS[str(part)]
            continue
        field = model.model_fields.get(str(part))
        if (
            field is not None
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
        ):
            model = field.annotation
    return list(model.model_fields)


def _with_nearest(shown: str, known: Sequence[str], word: str | None = None) -> str:
    nearest = difflib.get_close_matches(word or shown, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
    return f"{shown!r} ({hint})"
