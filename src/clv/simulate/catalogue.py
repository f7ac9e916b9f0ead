"""What the invented company sells, to whom, and in which words: products, attributes, names, exchange rates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from clv.simulate.timeline import Flags, Floats, Ints, Timeline, generator

INDUSTRIES = ("machinery", "food", "chemicals", "construction", "healthcare", "logistics")
LEAD_SOURCES = ("referral", "partner", "website", "trade_fair", "cold_call")
REGIONS = ("central", "west", "east", "overseas")
# country, region, currency, names
COUNTRIES = (
    ("DE", 0, "EUR", "latin"),
    ("AT", 0, "EUR", "latin"),
    ("CH", 0, "EUR", "latin"),
    ("FR", 1, "EUR", "latin"),
    ("NL", 1, "EUR", "latin"),
    ("IT", 1, "EUR", "latin"),
    ("PL", 2, "EUR", "latin"),
    ("BG", 2, "EUR", "cyrillic"),
    ("US", 3, "USD", "latin"),
    ("CN", 3, "USD", "chinese"),
    ("AE", 3, "USD", "arabic"),
)
COUNTRY_WEIGHTS = (30, 7, 6, 12, 9, 8, 9, 5, 7, 4, 3)
TERMS_DAYS = (14, 30, 45, 60)

NAME_PARTS = {
    "latin": (
        (
            *("Adler", "Brügge", "Castell", "Dahlmann", "Éclair", "Fjord", "Gründer", "Hanse", "Ibérica"),
            *("Jansen", "Kovač", "Lindström", "Müller", "Nowak", "Østergaard", "Řezník", "Şahin", "Tessin"),
        ),
        ("Anlagen", "Bau", "Foods", "Logistik", "Medical", "Pumps", "Systems", "Trading", "Werke", "Élan"),
        ("AG", "B.V.", "GmbH", "KG", "S.A.", "S.p.A.", "Sp. z o.o.", "& Co", "Inc.", "e.K."),
    ),
    "cyrillic": (
        ("Балкан", "Вега", "Дунав", "Искър", "Марица", "Орион", "Пирин", "Родопи", "София", "Тракия"),
        ("Строй", "Мебел", "Транс", "Хим", "Агро"),
        ("ООД", "АД", "ЕООД"),
    ),
    "chinese": (
        ("上海", "北京", "深圳", "广州", "青岛", "成都", "杭州", "苏州"),
        ("宏达机械", "瑞丰食品", "中联化工", "安泰医疗", "远航物流"),
        ("有限公司", "股份公司", "集团"),
    ),
    "arabic": (
        ("الخليج", "النور", "الواحة", "الصقر", "دبي"),
        ("للتجارة", "للنقل", "للبناء", "الطبية"),
        ("ش.م.م", "ش.ذ.م.م"),
    ),
    "person": (
        ("Anna", "Ben", "Chloé", "Dario", "Elif", "Jürgen"),
        ("Keller", "Moreau", "Novák", "Rossi", "Öztürk"),
        ("", ""),
    ),
}
# What a page, a spreadsheet, a shell or a query must survive.
AWKWARD_NAMES = (
    "<b>Bold & Sons</b><script>alert(1)</script>",
    "O'Brien & \"Sons\"'); DROP TABLE customers;--",
    '=HYPERLINK("http://example.invalid","click")',
    "🚀 Rocket 🛰️ GmbH",
    "مؤسسة ١٢٣ (ABC) للتجارة",
    "+49 Telefonbau",
    "-Minus Ltd",
    "@home services",
    "Zoë\u0301 Combining Ltd",
    "漢字かな交じり文株式会社",
    "NULL",
    "  Spaces  around  ",
    "A" * 180,
    "{{ 7 * 7 }} ${jndi}",
)

CATEGORIES = ("consumables", "spare_parts", "machines", "electronics", "chemicals", "services")
SERVICES = CATEGORIES.index("services")
MARGIN_RATIO = np.array([0.38, 0.44, 0.24, 0.20, 0.31, 0.55])
LINE_VALUE_FACTOR = np.array([0.7, 0.6, 2.6, 1.3, 1.0, 0.8])
MEDIAN_PRICE_EUR = np.array([4.0, 9.0, 60.0, 22.0, 7.0, 12.0])
CATEGORY_WEIGHTS = np.array([  # one row per industry
    [2.0, 3.0, 2.0, 1.0, 0.6, 1.0],
    [4.0, 1.0, 0.8, 0.5, 1.5, 0.6],
    [1.5, 1.0, 0.8, 0.6, 5.0, 0.8],
    [2.0, 2.0, 2.5, 0.6, 1.0, 0.5],
    [3.0, 0.8, 0.8, 3.0, 1.0, 1.5],
    [2.0, 3.0, 1.0, 1.5, 0.5, 1.5],
])  # fmt: skip
QUANTITY_SIGMA = 0.5


@dataclass(frozen=True)
class Products:
    """One row per product, ordered by category."""

    category: Ints
    price_eur: Floats
    unit_cost_eur: Floats  # of services: what the margin ratio implies at list price
    margin_ratio: Floats  # at list price
    popularity: Floats  # share of its category's lines

    @property
    def is_service(self) -> Flags:
        """Has no unit cost: its contribution is `margin_ratio` of the net amount, by definition."""
        return np.equal(self.category, SERVICES)

    def draw(self, rng: np.random.Generator, category: Ints) -> Ints:
        """A product of each given category, by popularity."""
        passed = np.cumsum(self.popularity)  # category k fills (k, k + 1]
        positions = np.searchsorted(passed, category + rng.random(len(category)), side="right")
        first = np.searchsorted(self.category, category, side="left")
        last = np.searchsorted(self.category, category, side="right") - 1
        return np.clip(positions, first, last)


def products(seed: int, count: int = 200) -> Products:
    """The catalogue: prices are log-normal within a category, popularity falls off as in Zipf's law."""
    rng = generator(seed, "products")
    category = np.sort(np.arange(count) % len(CATEGORIES)).astype(np.int64)
    price = np.round(MEDIAN_PRICE_EUR[category] * np.exp(0.6 * rng.standard_normal(count)) + 0.5, 2)
    spread = np.where(category == SERVICES, 0.0, 0.03)
    margin = np.round(MARGIN_RATIO[category] + spread * rng.standard_normal(count), 4)
    weight = 1.0 / (1.0 + rng.permutation(count) % (count // len(CATEGORIES)))
    popularity = np.asarray(weight / np.bincount(category, weights=weight)[category], dtype=np.float64)
    cost = np.round(price * (1.0 - margin), 4)
    return Products(category, price, cost, margin, popularity)


def expected_quantity(ratio: Floats) -> Floats:
    """Mean of max(1, X) with X log-normal around the mean `ratio`, sigma QUANTITY_SIGMA.

    The quantity of a line is X rounded up or down at random so that the mean stays, and at least 1.
    """
    grid = np.linspace(-12.0, 16.0, 4001)
    half = QUANTITY_SIGMA**2 / 2
    above = np.exp(grid) * ndtr((grid + half) / QUANTITY_SIGMA)
    below = ndtr((half - grid) / QUANTITY_SIGMA)
    mean: Floats = np.interp(np.log(ratio), grid, above + below)
    return mean


def exchange_rates(seed: int, timeline: Timeline) -> Floats:
    """EUR per USD on each simulated day: a walk that is drawn back to 0.92."""
    shocks = 0.004 * generator(seed, "exchange_rates").standard_normal(timeline.end)
    logs = np.empty(timeline.end)
    level = 0.0
    for day, shock in enumerate(shocks):
        level = 0.997 * level + shock
        logs[day] = level
    return np.round(0.92 * np.exp(logs), 6)
