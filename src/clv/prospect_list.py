"""The list that sales open: prospects by expected value, each with why, and who judged; from the published month."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clv import ingest, publish
from clv.console import prospect_warnings, terminal
from clv.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import Config

NAME_CELLS = 24


@dataclass(frozen=True)
class ProspectList:
    """The prospects of `as_of`, the newest month published by `day`, as they stand on `day`.

    `ranked`: the first ones by prospect_value, without a forecast by composite_score, then by customer_id; columns
    rank, customer_id, name (null where none is on record), tier, prospect_value, prospect_value_low,
    prospect_value_high, conversion_probability, composite_score, prospect_valid_until, judgement (score, who and until
    when, in words; null without one), direction and sentence of the strongest reason. Not ranked, but counted:
    `stale`, whose prospect_valid_until lies before `day`; `unknown`, with neither forecast nor judgement. `total` are
    those that could be ranked, shown or not.
    `facts`: month_facts of the month.
    """

    day: date
    as_of: date
    ranked: pd.DataFrame
    total: int
    stale: int
    stale_since: date | None
    unknown: int
    is_month_stale: bool
    facts: pd.DataFrame


def prospect_list(config: Config, day: date, top: int) -> ProspectList:
    """The first `top` prospects as of `day`. Raises ConfigError where no month was published by then."""
    missing = ConfigError(
        f"Expected a month of {config.company} published on or before {day}, found none in {config.warehouse_path}. "
        f"Run: python pipelines/score.py --config <file> --as-of {day}"
    )
    if not config.warehouse_path.exists():
        raise missing
    with publish.reader(config) as read:
        month = read(_MONTH_SQL) if _has_months(read) else None
        if month is not None:
            month = month[(month["as_of_date"].dt.date <= day).to_numpy(bool)]
        if month is None or month.empty:
            raise missing
        as_of, is_stale = month["as_of_date"].iloc[-1].date(), bool(month["is_stale"].iloc[-1])
        everyone = read(_PROSPECTS_SQL, as_of)
        facts = read(
            "SELECT name, value, detail FROM clv.month_facts WHERE as_of_date = ? ORDER BY name", as_of
        )
    old = (everyone["prospect_valid_until"].dt.date < day).to_numpy(bool)
    known = everyone["composite_score"].notna().to_numpy(bool)
    ranked = everyone[~old & known].reset_index(drop=True)
    ranked.insert(0, "rank", ranked.index + 1)
    since = everyone.loc[old, "prospect_valid_until"].max().date() if old.any() else None
    shown = ranked.head(top)
    names = ingest.customer_names(config, as_of, shown["customer_id"].tolist())
    shown.insert(2, "name", shown["customer_id"].map(names).astype("object"))
    return ProspectList(
        day,
        as_of,
        shown,
        len(ranked),
        int(old.sum()),
        since,
        int((~old & ~known).sum()),
        is_stale,
        facts,
    )


def show(config: Config, found: ProspectList) -> None:
    """The list on the terminal; what comes from outside is shown as text, never read as markup."""
    console = terminal()
    console.print()
    heading = Text(f"{config.company}: prospects on {found.day}", style="bold")
    console.print(
        heading.append(
            Text(
                f"  (graded as of {found.as_of}; expected value in {config.reporting_currency}, 80 % interval, chance "
                f"of a first order within {config.prospect.conversion_days} days{_good_until(found.ranked)}; tiers "
                f"follow the score, in which a judgement counts {config.prospect.judgement_weight_ratio:g})",
                style="not bold dim",
            )
        )
    )
    lines = _aligned([_figures(row) for row in found.ranked.to_dict("records")])
    for line, row in zip(lines, found.ranked.to_dict("records"), strict=True):
        is_key = row["tier"] in config.tiers.prospect_key
        console.print(Text(line, style="bold" if is_key else ""), no_wrap=True, overflow="fold")
        console.print(Padding(_why(row), (0, 0, 0, 4)))
    for said in _left_out(found):
        console.print(Text(said, style="yellow"))
    _show_judges(console, found.facts)
    for said in prospect_warnings(found.facts):
        console.print(Text(_plain(said), style="yellow"))


_MONTH_SQL = "SELECT as_of_date, is_stale FROM clv.published ORDER BY as_of_date"

_PROSPECTS_SQL = """
    SELECT g.customer_id, g.tier, g.prospect_value, g.prospect_value_low, g.prospect_value_high,
        g.conversion_probability, g.composite_score, g.prospect_valid_until, c.why AS judgement, r.direction, r.sentence
    FROM clv.grades AS g
    LEFT JOIN clv.criteria AS c ON c.as_of_date = g.as_of_date AND c.customer_id = g.customer_id
        AND c.criterion = 'prospect' AND g.composite_score IS NOT NULL
    LEFT JOIN clv.reasons AS r ON r.as_of_date = g.as_of_date AND r.customer_id = g.customer_id AND r.position = 1
    WHERE g.as_of_date = ? AND g.value_source = 'prospect'
    ORDER BY g.prospect_value DESC NULLS LAST, g.composite_score DESC NULLS LAST, g.customer_id
"""


def _has_months(read: Any) -> bool:
    found = read(
        "SELECT count(*) AS n FROM duckdb_tables() WHERE schema_name = 'clv' AND table_name = 'published'"
    )
    return bool(found["n"].iloc[0])


def _figures(row: dict[str, Any]) -> list[tuple[str, str]]:
    """The cells of a prospect's line, each with its side."""
    known = row["prospect_value"] == row["prospect_value"]
    return [
        (str(row["rank"]), "right"),
        (_plain(row["customer_id"]), "left"),
        (_short(_plain(row["name"])) if isinstance(row["name"], str) else "", "left"),
        (_plain(row["tier"]), "left"),
        (f"{row['prospect_value']:,.0f}" if known else f"score {row['composite_score']:.0f}", "right"),
        (f"{row['prospect_value_low']:,.0f}–{row['prospect_value_high']:,.0f}" if known else "", "right"),
        (f"{row['conversion_probability']:.0%}" if known else "", "right"),
    ]


def _good_until(ranked: pd.DataFrame) -> str:
    """Scores of one month are good until the same day."""
    return "" if ranked.empty else f", good until {ranked['prospect_valid_until'].iloc[0]:%Y-%m-%d}"


def _short(name: str) -> str:
    return name if cell_len(name) <= NAME_CELLS else set_cell_size(name, NAME_CELLS - 1) + "…"


def _plain(text: str) -> str:
    """`text` on one line, without what a terminal would obey: escape sequences, turned letters, line breaks."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _aligned(rows: list[list[tuple[str, str]]]) -> list[str]:
    """Each row as a line, cells below each other however wide their letters are."""
    if not rows:
        return []
    widths = [max(cell_len(cell) for cell, _ in column) for column in zip(*rows, strict=True)]

    def cell(text: str, side: str, width: int) -> str:
        room = " " * (width - cell_len(text))
        return room + text if side == "right" else set_cell_size(text, width)

    return [
        "  ".join(cell(text, side, width) for (text, side), width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _why(row: dict[str, Any]) -> Table:
    """The strongest reason, and the judgement, behind their signs."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column()
    if isinstance(row["sentence"], str):
        grid.add_row(Text("+" if row["direction"] == "for" else "−"), Text(_plain(row["sentence"])))
    if isinstance(row["judgement"], str):
        grid.add_row(Text("✎"), Text(_plain(row["judgement"])), style="italic")
    return grid


def _left_out(found: ProspectList) -> list[str]:
    said = []
    if found.total > len(found.ranked):
        said.append(f"… and {found.total - len(found.ranked):,} more (--top {found.total} shows all)")
    if found.stale:
        said.append(
            f"{found.stale:,} stale, not ranked: their scores were good until {found.stale_since}. Grade a newer "
            f"month: python pipelines/score.py --config <file> --as-of {found.day}"
        )
    if found.unknown:
        said.append(f"{found.unknown:,} not ranked: neither a forecast nor a valid judgement")
    if found.is_month_stale:
        said.append(f"The month {found.as_of} is stale, as an earlier one has changed since: grade it again")
    if not (found.total or found.stale or found.unknown):
        said.append("No prospects: everybody contacted has ordered")
    return said


def _show_judges(console: Any, facts: pd.DataFrame) -> None:
    """The record of those who judged, as the newest training found it."""
    rows = facts[facts["name"].str.match(r"judges?_").to_numpy(bool)]
    if rows.empty:
        return
    console.print(Text("\nJudges, held against what happened and against the model", style="bold"))
    order = rows["name"].map({"judges_all": 0, "judges_combined": 1}).fillna(2)
    for row in rows.assign(order=order).sort_values(["order", "name"]).to_dict("records"):
        said = f"{row['value']:.2f} {row['detail']}" if row["name"] == "judges_combined" else row["detail"]
        console.print(Padding(Text(_plain(said)), (0, 0, 0, 2)))
