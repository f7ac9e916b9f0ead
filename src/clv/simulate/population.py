"""Who is contacted, who converts, and the true parameters of each account."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.special import expit

from clv.simulate import catalogue
from clv.simulate.timeline import DAYS_PER_YEAR, Flags, Floats, Ints, Timeline, generator, pick

ESTABLISHED_RATIO = 1 / 3  # share of customers whose first order falls into the first 90 days
INDUSTRY_CONVERSION = np.array([0.3, 0.0, 0.5, -0.5, 0.2, -0.4])
SOURCE_CONVERSION = np.array([0.9, 0.6, 0.0, -0.2, -1.0])
INDUSTRY_VALUE = np.array([0.3, -0.2, 0.4, 0.0, 0.1, -0.3])
SOURCE_VALUE = np.array([0.3, 0.2, -0.2, 0.1, -0.1])
INDUSTRY_LATENESS = np.array([0.0, -0.2, -0.3, 0.8, 0.0, 0.7])


@dataclass(frozen=True)
class Accounts:
    """One row per account, in the order of first contact; times in days from the start, rates per year."""

    contact_time: Floats
    conversion_time: Floats  # of the first order; inf for those who never buy
    dropout_time: Floats  # inf where there is no first order
    industry: Ints
    country: Ints
    employees: Ints
    employees_known: Flags
    lead_source: Ints
    web_visits: Ints
    requested_quote: Flags
    is_natural_person: Flags
    conversion_probability: Floats  # ever
    conversion_rate_per_day: Floats  # of those who do
    order_rate: Floats
    dropout_rate: Floats
    line_value_eur: Floats  # typical value of a line at list price, before the category's factor
    category_mix: Floats  # accounts x categories
    discount_ratio: Floats
    return_ratio: Floats  # P(a line is returned)
    service_rate: Floats
    terms_days: Ints
    late_level: Floats  # log-odds of the late regime, before drift
    late_slope: Floats  # change of it per year
    late_scale_days: Floats  # mean delay in the late regime

    def __len__(self) -> int:
        return len(self.contact_time)

    def take(self, rows: Ints) -> Accounts:
        return Accounts(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def currency_is_usd(self) -> Flags:
        return np.array([country[2] == "USD" for country in catalogue.COUNTRIES])[self.country]

    @property
    def region(self) -> Ints:
        return np.array([country[1] for country in catalogue.COUNTRIES])[self.country]


def _concat(parts: list[Accounts]) -> Accounts:
    return Accounts(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Accounts)
        }
    )


def _leads(rng: np.random.Generator, n: int, earliest: float, latest: float, intercept: float) -> Accounts:
    """`n` accounts first contacted between two times; log-linear effects of the attributes, plus noise."""
    industry = pick(rng, (22, 18, 14, 18, 14, 14), n)
    country = pick(rng, catalogue.COUNTRY_WEIGHTS, n)
    person = rng.random(n) < 0.015
    log_size = 1.3 * rng.standard_normal(n) + np.array([0.3, 0.1, 0.5, -0.4, 0.2, -0.2])[industry]
    log_size = np.where(person, -3.5, log_size)
    source = pick(rng, (16, 12, 34, 18, 20), n)
    eagerness = rng.gamma(1.5, 1 / 1.5, n)
    visits = rng.poisson(np.array([3.0, 2.5, 6.0, 2.0, 1.0])[source] * eagerness)
    quote = rng.random(n) < expit(-1.0 + 0.25 * (visits - 3.0).clip(-3, 8))
    interest = (
        0.9 * (quote - 0.3)
        + 0.5 * (np.log1p(visits) - 1.2)
        + SOURCE_CONVERSION[source]
        + INDUSTRY_CONVERSION[industry]
        + 0.2 * log_size
        + 0.5 * rng.standard_normal(n)
    )
    contact = rng.uniform(earliest, latest, n)
    probability = expit(intercept + 1.3 * interest)
    rate = np.exp(0.45 * interest) / 150.0
    converts = rng.random(n) < probability
    conversion = np.where(converts, contact + rng.exponential(1.0, n) / rate, np.inf)
    dropout_rate = 0.20 * np.exp(0.7 * rng.standard_normal(n) - 0.15 * interest)
    lifetime = rng.exponential(1.0, n) / dropout_rate * DAYS_PER_YEAR
    # A few buy below cost: deep discounts, many returns, much service.
    bargain = rng.random(n) < 0.06
    mix = rng.gamma(0.9 * catalogue.CATEGORY_WEIGHTS[industry] + 1e-3)
    wandering = rng.random(n) < 0.3
    return Accounts(
        contact_time=contact,
        conversion_time=conversion,
        dropout_time=conversion + lifetime,
        industry=industry,
        country=country,
        employees=np.maximum(1, np.rint(np.exp(3.5 + log_size))).astype(np.int64),
        employees_known=rng.random(n) >= 0.08,
        lead_source=source,
        web_visits=visits,
        requested_quote=quote,
        is_natural_person=person,
        conversion_probability=probability,
        conversion_rate_per_day=rate,
        order_rate=np.exp(np.log(3.7) + 0.1 * log_size + 0.2 * quote + 0.75 * rng.standard_normal(n)),
        dropout_rate=dropout_rate,
        line_value_eur=190.0
        * np.exp(
            0.45 * log_size
            + INDUSTRY_VALUE[industry]
            + SOURCE_VALUE[source]
            + 0.3 * quote
            + 0.8 * rng.standard_normal(n)
        ),
        category_mix=mix / mix.sum(axis=1, keepdims=True),
        discount_ratio=np.where(bargain, rng.uniform(0.22, 0.36, n), 0.25 * rng.beta(1.2, 3.0, n)),
        return_ratio=np.where(bargain, rng.uniform(0.10, 0.30, n), rng.beta(1.2, 34.0, n)),
        service_rate=rng.gamma(1.5, 1.2, n) * np.where(bargain | (rng.random(n) < 0.03), 7.0, 1.0),
        terms_days=np.array(catalogue.TERMS_DAYS)[pick(rng, (25, 45, 15, 15), n)],
        late_level=-1.0 + INDUSTRY_LATENESS[industry] + 1.15 * rng.standard_normal(n),
        late_slope=np.where(wandering, 0.45 * rng.standard_normal(n), 0.0),
        late_scale_days=np.exp(np.log(30.0) + 0.35 * rng.standard_normal(n)),
    )


def _established(rng: np.random.Generator, n: int) -> Accounts:
    """Customers since before the records began: first recorded order within 90 days of the start."""
    drawn = _leads(rng, n, 0.0, 1.0, 0.0)
    first_order = rng.uniform(0.0, 90.0, n)
    contact = np.maximum(0.0, first_order - rng.exponential(30.0, n))
    lifetime = rng.exponential(1.0, n) / drawn.dropout_rate * DAYS_PER_YEAR
    columns = {field.name: getattr(drawn, field.name) for field in fields(drawn)}
    columns |= {
        "contact_time": contact,
        "conversion_time": first_order,
        "dropout_time": first_order + lifetime,
    }
    return Accounts(**columns)


def conversion_intercept(seed: int, timeline: Timeline, customers: int, prospects: int) -> float:
    """The intercept at which leads become customers and prospects in the proportion that was asked for.

    So hardly any lead has to be set aside to meet the counts, and conversion rates seen in the past hold later.
    """
    leads = customers - round(customers * ESTABLISHED_RATIO)
    target = np.clip(leads / max(leads + prospects, 1), 0.02, 0.98)
    pilot = _leads(generator(seed, "pilot"), 20_000, 0.0, timeline.first_graded, 0.0)
    logit = np.log(pilot.conversion_probability) - np.log1p(-pilot.conversion_probability)
    in_time = -np.expm1(-pilot.conversion_rate_per_day * (timeline.first_graded - pilot.contact_time))
    low, high = -12.0, 12.0
    for _ in range(50):
        middle = (low + high) / 2
        if float(np.mean(expit(logit + middle) * in_time)) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def accounts(
    rng: np.random.Generator, timeline: Timeline, customers: int, prospects: int, later: int, intercept: float
) -> Accounts:
    """A block of the population in the order of first contact.

    Exactly `customers` have their first order before the first graded month, exactly `prospects` were contacted
    before it and have none by then, and `later` are first contacted after it.
    """
    established = round(customers * ESTABLISHED_RATIO)
    parts = [_established(rng, established)]
    missing_customers, missing_prospects = customers - established, prospects
    while missing_customers or missing_prospects:
        size = 2 * (missing_customers + missing_prospects) + 64
        drawn = _leads(rng, size, 0.0, timeline.first_graded, intercept)
        bought = drawn.conversion_time < timeline.first_graded
        kept = np.concatenate(
            [np.flatnonzero(bought)[:missing_customers], np.flatnonzero(~bought)[:missing_prospects]]
        )
        chosen = drawn.take(kept)
        parts.append(chosen)
        now_bought = int((chosen.conversion_time < timeline.first_graded).sum())
        missing_customers -= now_bought
        missing_prospects -= len(chosen) - now_bought
    parts.append(_leads(rng, later, timeline.first_graded, timeline.end, intercept))
    together = _concat(parts)
    return together.take(np.argsort(together.contact_time, kind="stable"))
