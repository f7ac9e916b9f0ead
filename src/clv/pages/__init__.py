"""A back-test as one page of HTML that stands on its own: its figures, tables and pictures, nothing from outside.

Nothing of single customers is on it. The same report gives the same page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from clv.config import Config
    from clv.exhibits import Exhibits

DPI = 150
NONE = "–"

Figures = Mapping[str, float | None]
Report = Mapping[str, Figures]


@dataclass(frozen=True)
class Cell:
    """A figure as text; `note` is small print below it, its interval for one."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells, each behind its heading."""

    headings: list[str]
    rows: list[tuple[str, list[Cell]]]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def _gain(value: float) -> str:
    return f"{value:+.3f}"


def _percent(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


def _change(value: float) -> str:
    return f"{value:+.1%}".replace("%", " %")


def _count(value: float) -> str:
    return f"{value:,.0f}"


Format = Callable[[float], str]
# Part -> figure -> how it is called and written.
FIGURES: dict[str, dict[str, tuple[str, Format]]] = {
    "lifetime_value": {
        "normalised_gini": ("normalised Gini", _number),
        "gain_over_last_period": ("gain over last_period", _gain),
        "gain_over_btyd": ("gain over btyd", _gain),
        "gain_over_bgnbd": ("gain over bgnbd", _gain),
        "spearman": ("rank correlation", _number),
        "captured_share_top_1": ("held by the first 1 %", _percent),
        "oracle_share_top_1": ("… by the oracle's first 1 %", _percent),
        "captured_share_top_20": ("held by the first 20 %", _percent),
        "oracle_share_top_20": ("… by the oracle's first 20 %", _percent),
        "total_predicted": ("total predicted", _count),
        "total_realised": ("total realised", _count),
        "bias_ratio": ("predicted ÷ realised − 1", _change),
        "log_bias": ("log bias", _gain),
        "weighted_decile_error": ("weighted decile error", _number),
        "mae": ("mean absolute error", _number),
        "interval_coverage_ratio": ("80 % intervals cover", _percent),
        "interval_coverage_top_20": ("… of the first 20 %", _percent),
    },
    "payment_delay": {
        "invoices": ("invoices", _count),
        "auc": ("AUC", _number),
        "brier": ("Brier score", _number),
        "log_loss": ("log loss", _number),
        "calibration_slope": ("calibration slope", _number),
        "mean_predicted": ("mean predicted", _percent),
        "mean_realised": ("mean realised", _percent),
        "mae_days": ("mean error of days late", _number),
    },
    "prospect_value": {
        "prospects": ("prospects", _count),
        "auc": ("AUC", _number),
        "brier": ("Brier score", _number),
        "lift_top_10": ("lift of the first 10 %", _number),
        "normalised_gini": ("normalised Gini", _number),
        "mean_predicted": ("mean predicted", _percent),
        "mean_realised": ("mean realised", _percent),
    },
}
SUMMARY = {
    "origins": ("dates judged", _count),
    "origins_won": ("… with the highest Gini", _count),
    **FIGURES["lifetime_value"],
    "mean_abs_log_bias": ("mean |log bias|", _number),
}


def of_backtest(config: Config, report: Mapping[str, Any], shown: Exhibits) -> str:
    """The page of a back-test's report with the pictures and tables of `exhibits.of_backtest`."""
    origins = report.get("origins")
    value = report["lifetime_value"]
    context = {
        "company": config.company,
        "currency": config.reporting_currency,
        "report": report,
        "headlines": _headlines(value["model"], value) if value else [],
        "parts": {part: _by_forecast(report[part], FIGURES[part]) for part in FIGURES if report[part]},
        "origins": _dates(origins["reports"]) if origins else None,
        "summary": _by_forecast(origins["summary"], SUMMARY) if origins else None,
        "tiers_held": _tiers_held(report["tiers"]) if report["tiers"] else None,
        "truth": _truth(report["truth"] or {}),
        "tables": {path: _of_frame(table) for path, table in shown.tables.items()},
        "pictures": {path: _picture(figure) for path, figure in shown.figures.items()},
        "titles": {path: figure.get_suptitle() for path, figure in shown.figures.items()},
        "config_hash": config.hash,
        "seed": config.seed,
        "version": version("clv"),
    }
    environment = Environment(
        loader=PackageLoader("clv", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("backtest.html").render(context)
    return page.replace(" %", "\N{NO-BREAK SPACE}%") + "\n"  # a number stays with its sign


def _headlines(model: Figures, value: Report) -> list[tuple[str, Cell]]:
    """What to see first: heading and figure."""
    last = value.get("last_period", {}).get("normalised_gini")
    beside = "" if last is None else f"last_period {_number(last)}"
    gini = _cell(model, "normalised_gini", _number)
    figures = [
        ("normalised Gini", Cell(gini.text, " · ".join(filter(None, (gini.note, beside))))),
        ("gain over last_period", _cell(model, "gain_over_last_period", _gain)),
        ("held by the first 20 %", _cell(model, "captured_share_top_20", _percent)),
        ("predicted ÷ realised − 1", _cell(model, "bias_ratio", _change)),
        (
            "80 % intervals cover, first 20 %",
            _cell(model, "interval_coverage_top_20", _percent),
        ),
    ]
    return [(heading, cell) for heading, cell in figures if cell.text != NONE]


def _by_forecast(report: Report, figures: Mapping[str, tuple[str, Format]]) -> Table:
    """A row per figure that some forecast has, a column per forecast."""
    known = [figure for figure in figures if any(row.get(figure) is not None for row in report.values())]
    rows = [
        (figures[figure][0], [_cell(row, figure, figures[figure][1]) for row in report.values()])
        for figure in known
    ]
    return Table(["", *report], rows)


def _dates(reports: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each date what is shown of it, or why it was not judged."""
    found = []
    for report in reports:
        value = report["lifetime_value"] or {}
        model = value.get("model", {})
        found.append(
            {
                "as_of": report["as_of"],
                "customers": NONE if report["customers"] is None else _count(report["customers"]),
                "ginis": {name: _cell(row, "normalised_gini", _number).text for name, row in value.items()},
                "gain": _cell(model, "gain_over_last_period", _gain),
                "bias": _cell(model, "bias_ratio", _change),
                "coverage": _cell(model, "interval_coverage_top_20", _percent).text,
                "why": report.get("why", {}).get("lifetime_value"),
            }
        )
    return found


def _tiers_held(tiers: Mapping[str, Any]) -> Table:
    """A row per tier: its customers, and the share of realised value it would have held by each forecast."""
    names = next(iter(tiers.values()))["customers_by_tier"]
    rows = [
        (
            tier,
            [
                Cell(_count(names[tier])),
                *(_cell(found["captured_share_by_tier"], tier, _percent) for found in tiers.values()),
            ],
        )
        for tier in names
    ]
    return Table(["", "customers", *tiers], rows)


def _truth(truth: Mapping[str, Any]) -> dict[str, Table]:
    """Heading -> comparison with what the simulator knows, a row per figure and a column per forecast."""
    found = {}
    for part, figures in truth.items():
        if figures is None:
            continue
        kinds = {part: figures}
        if part == "prospect_value":
            kinds = {f"{part}: {kind}": figures[kind] for kind in ("conversion", "value")}
        for kind, rows in kinds.items():
            forecasts = {name: row for name, row in rows.items() if isinstance(row, dict)}
            names = {name: (name.replace("_", " "), _number) for name in next(iter(forecasts.values()))}
            found[kind.replace("_", " ")] = _by_forecast(forecasts, names)
    return found


def _of_frame(frame: pd.DataFrame) -> Table:
    """A table as it is logged, its first column in front; the two ends of an interval become a note."""
    shown = [name for name in frame.columns[1:] if not name.endswith(("_low", "_high"))]
    rows = [
        (
            str(record[frame.columns[0]]),
            [
                Cell(record[name]) if isinstance(record[name], str) else _cell(record, name, _count_or_number)
                for name in shown
            ],
        )
        for record in frame.to_dict("records")
    ]
    return Table([name.replace("_", " ") for name in (frame.columns[0], *shown)], rows)


def _count_or_number(value: float) -> str:
    return (
        _count(value) if float(value).is_integer() else f"{value:,.2f}" if abs(value) < 100 else _count(value)
    )


def _cell(row: Mapping[str, Any], figure: str, write: Format) -> Cell:
    """The figure with its interval."""
    text, low, high = (_text(row.get(figure + end), write) for end in ("", "_low", "_high"))
    return Cell(text, f"{low} to {high}" if NONE not in (text, low, high) else "")


def _text(value: float | None, write: Format) -> str:
    return NONE if value is None or value != value else write(value).replace("-", "\N{MINUS SIGN}")


def _picture(figure: Figure) -> str:
    """The figure as the address of an image that holds all of it."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=DPI)
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode("ascii")
