"""Back-tests on the terminal: a forecast per row, the best of each figure in bold."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from clv.console.screen import terminal

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
    console = terminal()
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


def show_rolling(report: dict[str, Any]) -> None:
    """The figures of `backtest --tiers`."""
    console = terminal()
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
