"""What the programs show on a terminal: receipts, the pyramid, key customers with their reasons, tier moves.

What comes from outside (ids, tier names, paths) is shown as text, never read as markup.
"""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clv import publish
from clv.settings.grading import INACTIVE

if TYPE_CHECKING:
    import pandas as pd

    from clv.cards import Card
    from clv.config import Config
    from clv.publish import Receipt

KEY_CUSTOMERS_SHOWN = 5
BAR_WIDTH = 24


def terminal() -> Console:
    """The terminal, which reads no markup: what comes from outside is shown as text."""
    return _console()


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def show_receipt(as_of: date, receipt: Receipt) -> None:
    """What became of the month, in a line or two."""
    console = _console()
    graded = f"{as_of}: {receipt.row_counts['grades']:,} graded"
    if receipt.status == "unchanged":
        console.print(f"{graded}, the same as in run {receipt.run_id}: nothing changed", soft_wrap=True)
        return
    console.print(f"{graded} and published as run {receipt.run_id}", soft_wrap=True)
    if receipt.rejected:
        console.print(f"  {receipt.rejected:,} rows set aside, each with its reason in clv.rejected_rows")


def show_card(card: Card) -> None:
    """The card of one customer or prospect."""
    from clv.cards import as_table

    console = _console()
    console.print()
    console.print(as_table(card))
    console.print()


def show_month(config: Config, as_of: date) -> None:
    """The month as published: pyramid, key customers and why, moves since the month before, where it all is."""
    console = _console()
    currency = config.reporting_currency
    with publish.reader(config) as read:
        summary = read("SELECT * FROM clv.tier_summary WHERE as_of_date = ? ORDER BY position", as_of)
        keys = read(_KEY_SQL.format(key=_names(config.tiers.key), n=KEY_CUSTOMERS_SHOWN), as_of)
        reasons = read(
            "SELECT customer_id, direction, concept, sentence FROM clv.reasons WHERE as_of_date = ? "
            f"AND customer_id IN ({_names(keys['customer_id'])}) ORDER BY customer_id, position",
            as_of,
        )
        moves = read(_MOVES_SQL, as_of)
        runs = read(
            "SELECT why FROM clv.runs JOIN clv.published USING (run_id, as_of_date) WHERE as_of_date = ?",
            as_of,
        )
        facts = read(
            "SELECT name, value, detail FROM clv.month_facts WHERE as_of_date = ? ORDER BY name", as_of
        )
        stale = read("SELECT as_of_date FROM clv.published WHERE is_stale ORDER BY as_of_date")

    console.print()
    of_customers = summary["value_source"] == "history"
    console.print(
        Text(f"{config.company}: customers as of {as_of}", style="bold").append(
            Text(f"  (12 months in {currency}; expected: value to come)", style="not bold dim")
        )
    )
    console.print(_pyramid(summary[of_customers]))
    console.print()
    console.print(_pyramids(summary[of_customers]))
    for said in _verdict(facts):
        console.print(said if said.plain.startswith("\n") else Padding(said, (0, 0, 0, 2)))
    prospects = summary[~of_customers & (summary["customers"] > 0)]
    if len(prospects):
        console.print(Text("\nProspects, a pyramid of their own", style="bold"))
        console.print(_pyramid(prospects))
        for warning in prospect_warnings(facts):
            console.print(Padding(Text(warning, style="yellow"), (0, 0, 0, 2)))
    if len(keys):
        console.print(Text("\nKey customers, and why", style="bold"))
    for customer in keys.to_dict("records"):
        console.print(Padding(_heading(customer, currency), (0, 0, 0, 2)))
        console.print(
            Padding(_reasons(reasons[reasons["customer_id"] == customer["customer_id"]]), (0, 0, 0, 4))
        )
    _show_moves(console, moves, [*config.tiers.names, INACTIVE])
    for line in _notes(runs):
        console.print(Text(line, style="yellow"))
    if len(stale):
        days = [str(day.date()) for day in stale["as_of_date"]]
        console.print(
            Text(
                f"\nStale, as an earlier month has changed since: {', '.join(days)}. "
                f"Grade them again: score.py --as-of {days[0]} --through {days[-1]}",
                style="yellow",
            )
        )
    console.print()
    places = {
        "warehouse": f"{config.warehouse_path}  (schema clv: grades, reasons, criteria, tier_summary, …)",
        "models": f"{config.mlflow.tracking_uri}  "
        f"(mlflow ui --backend-store-uri {config.mlflow.tracking_uri})",
    }
    for name, place in places.items():
        console.print(f"{name:<11}{place}", soft_wrap=True)


def prospect_warnings(facts: pd.DataFrame) -> list[str]:
    """What month_facts flag about prospects: groups clearly below four fifths, attributes that have moved; in words."""
    from clv.disparity import CLEARLY_BELOW

    flagged = dict.fromkeys(("prospect_disparity_", "conversion_disparity_"), CLEARLY_BELOW)
    flagged["prospect_drift_psi"] = "moved:"
    return [
        _plain(row["detail"])
        for row in facts.to_dict("records")
        if any(row["name"].startswith(name) and words in row["detail"] for name, words in flagged.items())
    ]


_KEY_SQL = """
    SELECT g.customer_id, g.tier, g.composite_score, g.clv, g.late_payment_probability FROM clv.grades AS g
    WHERE g.as_of_date = ? AND g.value_source = 'history' AND g.tier IN ({key})
    ORDER BY g.composite_rank LIMIT {n}
"""

_MOVES_SQL = """
    SELECT previous_tier AS from_tier, tier AS to_tier, count(*) AS customers FROM clv.grades
    WHERE as_of_date = ? AND value_source = 'history' GROUP BY ALL ORDER BY ALL
"""

# Figure of a tier -> its heading and its share; a heading fits the figures below it.
_FIGURES = {
    "revenue": ("revenue", "share_of_revenue_ratio"),
    "contribution_margin": ("contribution", "share_of_contribution_ratio"),
    "clv": ("expected", "share_of_clv_ratio"),
}


def _names(values: Any) -> str:
    return ", ".join("'" + str(value).replace("'", "''") + "'" for value in values) or "NULL"


def _pyramid(summary: pd.DataFrame) -> Table:
    """Tiers with what they hold and their shares, their sum below, lapsed customers outside it."""
    known = [name for name in _FIGURES if summary[name].notna().any()]
    table = Table(box=None, pad_edge=False)
    table.add_column(Text("tier"), overflow="fold")
    table.add_column(Text("customers"), justify="right", no_wrap=True)
    for name in known:
        table.add_column(Text(_FIGURES[name][0]), justify="right", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)

    def row(tier: str, cells: dict[str, Any], style: str) -> None:
        shown = [Text(tier), Text(f"{int(cells['customers']):,}")]
        for name in known:
            shown += [Text(_number(cells[name])), Text(_percent(cells[_FIGURES[name][1]]))]
        table.add_row(*shown, style=style)

    counted = summary[summary["tier"] != INACTIVE]
    for cells in counted.to_dict("records"):
        row(cells["tier"], cells, "bold" if cells["is_key"] else "")
    total = counted[["customers", *known]].sum(min_count=1).to_dict()
    shares = {_FIGURES[name][1]: counted[_FIGURES[name][1]].sum(min_count=1) for name in known}
    row("together", total | shares, "italic")
    for cells in summary[summary["tier"] == INACTIVE].to_dict("records"):
        row(INACTIVE, cells, "dim")
    return table


def _pyramids(summary: pd.DataFrame) -> Table:
    """The pyramid of customers beside the pyramid of profit: each tier's share of both, mirrored.

    Profit is contribution, else expected value, else revenue: the first that is known. A loss has no bar.
    """
    money = next(
        (name for name in ("contribution_margin", "clv", "revenue") if summary[name].notna().any()), "clv"
    )
    heading, share = _FIGURES[money]
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column(Text("customers"), justify="right", no_wrap=True, min_width=BAR_WIDTH)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="center", overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(Text(heading), no_wrap=True, min_width=BAR_WIDTH)
    for cells in summary[summary["tier"] != INACTIVE].to_dict("records"):
        left, right = cells["share_of_customers_ratio"], cells[share]
        table.add_row(
            Text(_bar(left), style="blue"),
            Text(_percent(left)),
            Text(cells["tier"], style="bold" if cells["is_key"] else ""),
            Text(_percent(right).replace("-", "−")),
            Text(_bar(right), style="yellow"),
        )
    return table


def _bar(share: float) -> str:
    """A bar for a share between 0 and 1; at least a sliver where there is something."""
    if not share > 0:
        return ""
    return "█" * round(min(share, 1.0) * BAR_WIDTH) or "▏"


def _verdict(facts: pd.DataFrame) -> list[Text]:
    """Whether tiers make sense this month, and who is large or small without being loyal."""
    known = {row["name"]: row for row in facts.to_dict("records")}
    if "tiering_tests_passed" not in known:
        return []
    passed = known["tiering_tests_passed"]
    lines = [Text(f"\nDo tiers make sense here? {passed['value']:.0f} {passed['detail']}", style="bold")]
    for name in ("tiering_number_of_customers", "tiering_repeat_business", "tiering_concentration"):
        row = known[name]
        verdict, _, what = row["detail"].partition(": ")
        figure = f"{row['value']:,.0f}" if name == "tiering_number_of_customers" else f"{row['value']:.0%}"
        sign = "✓" if verdict == "yes" else "✗"
        lines.append(Text(f"{sign} {'–' if row['value'] != row['value'] else figure} {_plain(what)}"))
    for kind in ("large_disloyal", "small_disloyal"):
        row = known.get(f"quadrant_{kind}")
        if row and row["value"]:
            name, _, held = row["detail"].partition("; first ")[0].partition(": ")
            lines.append(Text(f"{_plain(name)}: {row['value']:,.0f} customers, {held}", style="yellow"))
    return lines


def _plain(words: str) -> str:
    """Names of columns and quadrants as words."""
    return words.replace("_", " ")


def _heading(customer: dict[str, Any], currency: str) -> Text:
    figures = [f"score {customer['composite_score']:.1f}"]
    if customer["clv"] == customer["clv"]:
        figures.append(f"expected value {_number(customer['clv'])} {currency}")
    if customer["late_payment_probability"] == customer["late_payment_probability"]:
        figures.append(f"late payment {customer['late_payment_probability']:.0%}")
    return Text(f"{customer['customer_id']}  {customer['tier']}  ", style="bold").append(
        Text(", ".join(figures), style="not bold")
    )


def _reasons(reasons: pd.DataFrame) -> Table:
    """Sentences behind a sign for or against, longer ones hanging below their first line."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column()
    for reason in reasons.to_dict("records"):
        is_rest = reason["concept"] == "other"
        sign = " " if is_rest else "+" if reason["direction"] == "for" else "−"
        grid.add_row(Text(sign), Text(reason["sentence"]), style="dim" if is_rest else "")
    return grid


def _show_moves(console: Console, moves: pd.DataFrame, order: list[str]) -> None:
    console.print()
    is_new = moves["from_tier"].isna()
    if is_new.all():
        console.print(Text("Tier moves since last month: none, this is the first month", style="bold"))
        return
    known = moves[~is_new]
    moved = known[known["from_tier"] != known["to_tier"]]
    total, count = int(known["customers"].sum()), int(moved["customers"].sum())
    heading = f"Tier moves since last month: {count:,} of {total:,} customers ({count / total:.1%})"
    console.print(Text(heading, style="bold"))
    place = {tier: i for i, tier in enumerate(order)}
    rows = sorted(
        moved.to_dict("records"),
        key=lambda row: (place.get(row["from_tier"], -1), place.get(row["to_tier"], -1)),
    )
    for row in rows:
        before, now = place.get(row["from_tier"]), place.get(row["to_tier"])
        sign = "•" if before is None or now is None else "▲" if now < before else "▼"
        console.print(f"  {sign} {row['from_tier']} → {row['to_tier']}: {row['customers']:,}")
    if is_new.any():
        console.print(f"  + {int(moves.loc[is_new, 'customers'].sum()):,} new")


def _notes(runs: pd.DataFrame) -> list[str]:
    if runs.empty:
        return []
    why = json.loads(runs["why"].iloc[0])
    lines = [f"{name} is switched off: {reason}" for name, reason in why.get("off", {}).items()]
    return lines + [f"{name}: {reason}" for name, reason in why.get("fallback", {}).items()]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == value else "–"


def _percent(value: float) -> str:
    return f"{value:.0%}" if value == value else ""


BACKTEST_FIGURES = {
    "lifetime_value": {
        "normalised_gini": "Gini", "spearman": "rank corr.", "captured_share_top_1": "top 1 %",
        "captured_share_top_20": "top 20 %", "mae": "MAE", "bias_ratio": "bias", "weighted_decile_error": "decile err.",
        "interval_coverage_top_20": "coverage",
    },
    "payment_delay": {
        "auc": "AUC", "brier": "Brier", "log_loss": "log loss", "calibration_slope": "slope",
        "mean_predicted": "predicted", "mean_realised": "realised", "mae_days": "MAE days",
    },
    "prospect_value": {
        "auc": "AUC", "brier": "Brier", "lift_top_10": "lift 10 %", "normalised_gini": "Gini",
        "mean_predicted": "predicted", "mean_realised": "realised",
    },
}  # fmt: skip
ORIGIN_FIGURES = {
    "origins": "dates", "origins_won": "won", "normalised_gini": "Gini", "captured_share_top_20": "top 20 %",
    "mean_abs_log_bias": "|log bias|", "weighted_decile_error": "decile err.", "interval_coverage_top_20": "coverage",
}  # fmt: skip
HIGHER_IS_BETTER = {
    "normalised_gini", "spearman", "captured_share_top_1", "captured_share_top_20", "auc", "lift_top_10",
    "origins_won",
}  # fmt: skip
LOWER_IS_BETTER = {"mae", "weighted_decile_error", "brier", "log_loss", "mae_days", "mean_abs_log_bias"}
NEARER_IS_BETTER = {"bias_ratio": 0.0, "calibration_slope": 1.0, "slope": 1.0}


def show_backtest(report: dict[str, Any]) -> None:
    """The figures of `backtest --report`: a table per part, a forecast per row, the best of each figure in bold.

    Of several dates also a table of their Ginis and the means over them.
    """
    console = _console()
    counted = f", {report['customers']:,} customers" if report["customers"] else ""
    console.print(f"Forecasts of {report['as_of']} for {report['horizon_days']} days{counted}\n")
    for part, figures in BACKTEST_FIGURES.items():
        if report[part]:
            console.print(_figures(part.replace("_", " "), report[part], figures))
    if report["tiers"]:
        shares = {name: found["captured_share_by_tier"] for name, found in report["tiers"].items()}
        tiers = {tier: tier for tier in shares["model"]}
        console.print(_figures("realised value held by each tier", shares, tiers))
    for part, found in (report["truth"] or {}).items():
        if found is None:
            continue
        kinds = {part: found} if part != "prospect_value" else {k: found[k] for k in ("conversion", "value")}
        for kind, rows in kinds.items():
            forecasts = {name: row for name, row in rows.items() if isinstance(row, dict)}
            names = {name: name.replace("_", " ") for name in next(iter(forecasts.values()))}
            console.print(_figures(f"against the truth: {kind.replace('_', ' ')}", forecasts, names))
    if "origins" in report:
        _show_origins(console, report["origins"])
    for part, reason in report.get("why", {}).items():
        console.print(Text(f"{part.replace('_', ' ')}: {reason}", style="yellow"))


def show_comparison(config: Config, both: pd.DataFrame, report: dict[str, Any]) -> None:
    """Who would move under other settings: figures of what_if.report, and the key customers won and lost."""
    console = _console()
    agreement, kappa = report["agreement_ratio"] or 0.0, report["kappa"]
    console.print(
        f"{report['moved']:,} of {report['customers']:,} customers would be in another tier; agreement {agreement:.1%}"
        + ("" if kappa is None else f", kappa {kappa:.2f}")
    )
    table = Table(box=None, pad_edge=False)
    names = [name for name in ("contribution_margin", "clv", "order_amount") if name in report["key_money"]]
    for heading in ("from", "to", "customers", *names):
        table.add_column(
            Text(heading.replace("_", " ")), justify="left" if heading in ("from", "to") else "right"
        )
    for move in report["moves"]:
        cells = [f"{move['customers']:,.0f}", *(_number(move[name] or 0.0) for name in names)]
        table.add_row(Text(move["from"]), Text(move["to"]), *cells)
    console.print(table)
    for name, money in report["key_money"].items():
        console.print(
            f"{name.replace('_', ' ')} of key customers: {_number(money['published'])} as published, "
            f"{_number(money['then'])} then ({config.reporting_currency})"
        )
    for sign, chosen in (
        ("+", ~both["was_key"] & both["is_key_then"]),
        ("−", both["was_key"] & ~both["is_key_then"]),
    ):
        first = both[chosen.to_numpy(bool)].nlargest(KEY_CUSTOMERS_SHOWN, "order_amount")
        for row in first.to_dict("records"):
            console.print(
                Text(
                    f"  {sign} {row['customer_id']}: {row['tier']} → {row['tier_then']} ({row['rule_then']})"
                )
            )


def show_rolling(report: dict[str, Any]) -> None:
    """The figures of `backtest --tiers`."""
    console = _console()
    console.print(
        f"{report['months']} months from {report['as_of']} through {report['through']}, {report['customers']:,.0f} "
        f"customers in tiers, counts {'exact in every month' if report['counts_exact'] else 'NOT exact'}\n"
    )
    headings = {
        "moves_ratio": "moves a month", "reversals_ratio": "undone", "ranking_reversals_ratio": "by ranking",
        "key_held_ratio": "held by key", "agreement_with_truth_ratio": "as without noise",
    }  # fmt: skip
    console.print(_figures("stability", report["stability"], headings))
    headings = {"moves": "moves", "share_ratio": "share", "reversals_ratio": "undone"}
    for by in ("rule", "edge", "month"):
        console.print(_figures(f"moves by {by}", report[f"moves_by_{by}"], headings, first=by))
    if report["captured"]:
        origins = f"realised value captured, mean of {report['origins_with_outcome']} origins"
        console.print(_figures(origins, report["captured"], {"top_1": "top 1 %", "top_20": "top 20 %"}))
        headings = {"customers": "customer months", "mean": "mean", "low": "low", "high": "high"}
        title = (
            f"realised value per customer by tier ({'monotone' if report['is_monotone'] else 'NOT monotone'})"
        )
        console.print(_figures(title, report["value_by_tier"], headings))
    if report["firmness"]:
        names = {name: name.replace("_", " ") for name in report["firmness"]}
        console.print(_figures("firmness", {"configured": report["firmness"]}, names))


def _show_origins(console: Console, origins: dict[str, Any]) -> None:
    """Gini of every forecast and level of the model by date, and the means over the dates."""
    reports, summary = origins["reports"], origins["summary"]
    judged = {each["as_of"]: each["lifetime_value"] for each in reports if each["lifetime_value"]}
    if judged:
        rows = {
            day: {name: value.get(name, {}).get("normalised_gini") for name in summary}
            | {"level": value["model"]["bias_ratio"]}
            for day, value in judged.items()
        }
        headings = {name: name for name in summary} | {"level": "bias of model"}
        console.print(_figures("normalised Gini by date", rows, headings, first="date"))
        console.print(_figures(f"means over {len(judged)} dates", summary, ORIGIN_FIGURES))
    for name in ("last_period", "btyd"):
        gain, low, high = (
            summary.get("model", {}).get(f"gain_over_{name}{end}") for end in ("", "_low", "_high")
        )
        if gain is not None:
            interval = "" if low is None or high is None else f" ({_signed(low)} to {_signed(high)}, 95 %)"
            console.print(f"gain of model over {name}: {_signed(gain)}{interval}")
    for each in reports:
        if each["lifetime_value"] is None:
            console.print(Text(f"{each['as_of']}: {each['why']['lifetime_value']}", style="yellow"))


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _figures(
    title: str,
    rows: dict[str, dict[str, float | None]],
    headings: dict[str, str],
    first: str = "forecast",
) -> Group:
    """A table under its title, one forecast (or what `first` names) per row; figures nobody has are left out."""
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    shown = [name for name in headings if any(row[name] is not None for row in rows.values())]
    for name in shown:
        table.add_column(Text(headings[name]), justify="right")
    best = {name: _best(name, [row[name] for row in rows.values()]) for name in shown}
    for forecast, row in rows.items():
        cells = [Text(forecast)]
        for name in shown:
            value = row[name]
            is_whole = isinstance(value, int) or (value is not None and abs(value) >= 100)
            text = "–" if value is None else f"{value:,.0f}" if is_whole else f"{value:.3f}"
            is_best = value is not None and value == best[name] and len(rows) > 1
            cells.append(Text(text.replace("-", "−"), style="bold" if is_best else ""))
        table.add_row(*cells)
    return Group(Text(title, style="bold"), table, "")


def _best(name: str, values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if name in HIGHER_IS_BETTER:
        return max(known)
    if name in LOWER_IS_BETTER:
        return min(known)
    if name in NEARER_IS_BETTER:
        return min(known, key=lambda value: abs(value - NEARER_IS_BETTER[name]))
    return None
