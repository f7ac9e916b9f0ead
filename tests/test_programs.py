"""The programs as a scheduler and a person meet them: exit codes, errors, logs, and what the terminal shows."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from clv import console, publish, tracking
from clv.config import Config
from clv.errors import ClvError

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = sorted(path.stem for path in (ROOT / "pipelines").glob("*.py"))
HEAVY = (
    "pandas",
    "numpy",
    "scipy",
    "duckdb",
    "mlflow",
    "lightgbm",
    "shap",
    "sklearn",
    "matplotlib",
    "lifetimes",
)
AS_OF = date(2026, 1, 1)


def run(
    program: str, *arguments: object, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "pipelines" / f"{program}.py"), *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | dict(environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tiny(tmp_path: Path) -> list[object]:
    """Options that put the tiny company's results into `tmp_path`."""
    places = {
        "warehouse.path": tmp_path / "tiny.duckdb",
        "mlflow.tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
        "mlflow.artifact_dir": tmp_path / "artifacts",
    }
    options: list[object] = ["--config", "tests/golden/tiny.yaml"]
    for key, value in places.items():
        options += ["--set", f"{key}={value}"]
    return options


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_nothing_heavy(program: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'pipelines')!r})\n"
        f"sys.argv = [{program!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'pipelines' / f'{program}.py')!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        f"print('heavy:', *sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.strip() == "heavy:"
    assert "--help" in done.stdout


def test_wrong_usage_and_settings_exit_with_2(tiny: list[object]) -> None:
    day = ["--as-of", "2026-01-01"]
    cases: dict[str, list[object]] = {
        "does not match": [*tiny, "--as-of", "2026-13-01"],
        "did you mean 'tiers'": [*tiny, *day, "--set", "tires.band_ratio=0.1"],
        "run:ID": [*tiny, *day, "--models", "latest"],
    }
    for says, arguments in cases.items():
        done = run("score", *arguments)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_no_champion_exits_with_2_and_says_what_to_run_also_in_json(
    tiny: list[object], tmp_path: Path
) -> None:
    done = run("score", *tiny, "--as-of", "2026-01-01", "--log-format", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 2
    assert all(set(line) == {"at", "level", "message"} for line in lines)
    assert lines[-1]["level"] == "error"
    assert "train.py --config" in lines[-1]["message"]
    assert not (tmp_path / "tiny.duckdb").exists()


def test_data_that_breaks_the_contract_exits_with_3_in_one_paragraph(tiny: list[object]) -> None:
    strict = "contract={tolerated_rows: 0, maximum_rejected_ratio: 0}"
    done = run("check", *tiny, "--as-of", "2026-01-01", "--set", strict)
    assert done.returncode == 3
    [paragraph] = re.split(r"\n\s*\n", done.stderr.strip())
    assert "expected at most 0%" in " ".join(paragraph.split())


def test_a_warehouse_of_another_version_exits_with_4(tiny: list[object], tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "tiny.duckdb")) as connection:
        connection.execute("CREATE SCHEMA clv; CREATE TABLE clv.runs (old INTEGER)")
    done = run("score", *tiny, "--as-of", "2026-01-01")
    assert done.returncode == 4
    assert "DROP SCHEMA clv CASCADE" in done.stderr


def test_a_file_that_another_process_holds_exits_with_5(tiny: list[object], tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "tiny.duckdb")):
        done = run("score", *tiny, "--as-of", "2026-01-01")
    assert done.returncode == 5
    assert "Wait" in done.stderr


def test_every_error_has_an_exit_code_of_its_own_kind() -> None:
    codes = {kind.__name__: kind.exit_code for kind in ClvError.__subclasses__()}
    assert codes == {"ConfigError": 2, "ModelError": 2, "TableError": 3, "PublishError": 4}


@pytest.mark.slow
def test_a_month_from_files_to_tiers_with_its_log_in_json(tiny: list[object], tmp_path: Path) -> None:
    policy = ("--set", "tiers.shares_ratio={important: 0.2, small: 0.8}", "--set", "tiers.key=[important]")
    month = (*tiny, *policy, "--as-of", "2026-01-01")
    done = run("monthly", *month, "--log-format", "json", environment={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert any(message.startswith("publishing") for message in messages)
    with duckdb.connect(str(tmp_path / "tiny.duckdb"), read_only=True) as connection:
        held = dict(connection.execute("SELECT tier, customers FROM clv.tier_summary").fetchall())
    assert (held["important"], held["small"]) == (12, 48)  # --set reached the policy
    assert "2026-01-01: 79 graded and published" in done.stdout
    again = run("score", *month)
    assert again.returncode == 0, again.stderr
    assert "nothing changed" in again.stdout


@pytest.mark.slow
def test_a_back_test_of_several_dates_from_files_to_a_page_and_a_run(
    tiny: list[object], tmp_path: Path
) -> None:
    day, place = ("--as-of", "2025-07-01", "--horizon-days", 90), tmp_path / "found"
    files = ("--report", place / "report.json", "--html", place / "page.html")
    dates = ("--origins", 3, "--step-months", 12)
    done = run("backtest", *tiny, *day, *dates, *files, environment={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    assert "means over 2 dates" in done.stdout
    assert re.search(
        r"gain of model over last_period: [+−]0\.\d{3}$", done.stdout, re.MULTILINE
    )  # of two: no interval
    assert "2023-07-01: order_lines: expected rows before" in done.stdout
    assert "…" not in done.stdout
    assert max(map(cell_len, done.stdout.splitlines())) <= 80
    report = json.loads((place / "report.json").read_text())
    page = (place / "page.html").read_text()

    store = tracking.open_store("tiny", f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts")
    client = tracking._client(store.tracking_uri)
    experiment = client.get_experiment_by_name("tiny")
    [logged] = client.search_runs([experiment.experiment_id])
    tags = {name: logged.data.tags[name] for name in ("kind", "as_of", "horizon_days")}
    assert tags == {"kind": "backtest", "as_of": "2025-07-01", "horizon_days": "90"}
    assert logged.info.run_name == "backtest 2025-07-01"
    assert logged.data.params["config_hash"]
    metrics, value = logged.data.metrics, report["lifetime_value"]
    for name in ("normalised_gini", "normalised_gini_low", "total_realised"):
        assert metrics[f"lifetime-value/model/{name}"] == value["model"][name]
    assert metrics["origins/model/origins"] == 2
    assert "payment-delay/logistic/brier" in metrics
    folder = Path(logged.info.artifact_uri.removeprefix("file://"))
    stored = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    pictures = ("gains", "lorenz", "deciles", "tiers", "course", "origins")
    assert {f"lifetime-value/{name}.png" for name in pictures} <= stored
    assert json.loads((folder / "backtest.json").read_text()) == report
    assert (folder / "backtest.html").read_text() == page

    texts = [path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".html", ".yaml")]
    assert len(texts) >= 6
    customers = pd.read_csv(ROOT / "tests/golden/company/customers.csv", dtype=str)
    names = "|".join(re.escape(name) for name in [*customers["customer_id"], *customers["name"].dropna()])
    assert not re.findall(rf"(?<![\w.-])(?:{names})(?![\w.])", "\n".join(texts))


def test_a_back_test_alone_leaves_nothing_in_mlflow(tiny: list[object], tmp_path: Path) -> None:
    done = run("backtest", *tiny, "--as-of", "2024-01-01", "--report", tmp_path / "r.json", "--no-mlflow")
    assert done.returncode == 0, done.stderr
    assert set(json.loads((tmp_path / "r.json").read_text())["why"]) >= {"lifetime_value", "tiers"}
    assert not (tmp_path / "mlflow.db").exists()


# What the terminal shows

LONG, CJK = "strategische Schlüsselkunden (A+)", "重要客户"


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What show_month prints at a width: tiers with long and wide names, an id that looks like markup."""
    config = Config.model_validate(
        {
            "company": "tiny",
            "reporting_currency": "EUR",
            "sources": {"order_lines": {"path": "orders.csv"}},
            "warehouse": {"path": str(tmp_path / "tiny.duckdb")},
            "tiers": {"shares_ratio": {LONG: 0.1, CJK: 0.4, "small": 0.5}, "key": [LONG]},
        }
    )
    ids, score = ["[red]A[/red]", "B:smile:", "C"], np.array([70.0, 50.0, 45.0])
    grades = pd.DataFrame(
        {
            "customer_id": ids,
            "value_source": "history",
            "clv": [1_234_567.0, np.nan, 3.0],
            "composite_score": score,
            "composite_baseline": 50.0,
            "composite_rank": [1, 2, 3],
            "tier": [LONG, CJK, "small"],
            "previous_tier": [CJK, None, "small"],
        }
    )
    criteria = pd.DataFrame(
        {"customer_id": ids, "criterion": "lifetime_value", "score": score, "weight": 1.0}
    )
    reasons = pd.DataFrame(
        {
            "customer_id": ids,
            "position": 1,
            "direction": "for",
            "concept": "recent_value",
            "points": score - 50,
            "sentence": "Business of the last 365 days: [b]29,934 EUR[/b]; similar customers: 525 EUR and more words. "
            "+11.4 points.",
        }
    )
    summary = pd.DataFrame(
        {
            "value_source": "history",
            "tier": [LONG, CJK, "small", "inactive"],
            "position": [1, 2, 3, 4],
            "is_key": [True, False, False, False],
            "customers": [1, 1, 1, 0],
            "share_of_customers_ratio": [0.1, 0.4, 0.5, np.nan],
            "revenue": [9_999_999.0, 10.0, 20.0, 0.0],
            "share_of_revenue_ratio": [0.9, 0.04, 0.06, np.nan],
            "contribution_margin": [1_999_999.0, -10.0, 20.0, 0.0],
            "share_of_contribution_ratio": [1.2, -0.2, 0.0, np.nan],
            "clv": [1_234_567.0, 5.0, 3.0, 0.0],
            "share_of_clv_ratio": [0.9, 0.04, 0.06, np.nan],
        }
    )
    tables = {"grades": [grades], "criteria": [criteria], "reasons": [reasons], "tier_summary": [summary]}
    tests = ("tiering_number_of_customers", "tiering_repeat_business", "tiering_concentration")
    facts = dict.fromkeys(tests, "no: [b]whatever[/b]") | {
        "tiering_tests_passed": "of 3: tiers say little here"
    }
    tables["month_facts"] = [
        pd.DataFrame({"name": list(facts), "value": 1.0, "detail": list(facts.values())})
    ]
    with publish.month(config, AS_OF) as month:
        why = {"off": {"payment": "no invoices [are] mapped"}}
        publish.publish(config, month, tables, expected_counts={}, mlflow_run_id=None, why=why)

    def at(width: int) -> list[str]:
        text = io.StringIO()
        terminal = Console(file=text, width=width, highlight=False, markup=False, emoji=False)
        monkeypatch.setattr(console.month, "terminal", lambda: terminal)
        console.show_month(config, AS_OF)
        return text.getvalue().splitlines()

    return at


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_pyramid_fits_the_terminal_with_its_headings_whole(shown: Any, width: int) -> None:
    lines = shown(width)
    # The last two lines are places to copy, never wrapped.
    assert all(cell_len(line) <= width for line in lines[:-2])
    assert not any("…" in line for line in lines[:-2])
    [heading] = [line for line in lines if "customers" in line and "revenue" in line]
    assert re.fullmatch(r"tier +customers +revenue +contribution +expected *", heading)


def test_the_pyramid_of_customers_stands_beside_the_pyramid_of_profit(shown: Any) -> None:
    lines = shown(100)
    start = next(i for i, line in enumerate(lines) if re.fullmatch(r" +customers +contribution *", line))
    [small] = [line for line in lines[start : start + 6] if " small " in line]
    customers, profit = small.split(" small ")
    assert re.search(r"█+ +\d+%", customers)
    assert re.search(r"−?\d+%", profit)
    assert "Do tiers make sense here? 1 of 3: tiers say little here" in lines
    assert "  ✗ 1 [b]whatever[/b]" in lines


@pytest.mark.parametrize("width", [80, 120])
def test_wide_letters_keep_the_columns_straight(shown: Any, width: int) -> None:
    lines = shown(width)
    at = {}
    for name, figure in ((CJK, "10"), ("small", "20"), ("together", "10,000,029")):
        [line] = [line for line in lines if line.startswith(name)]
        at[name] = cell_len(line[: line.index(f" {figure} ") + 1 + len(figure)])
    assert len(set(at.values())) == 1, at


def test_the_sum_stands_below_the_tiers_and_the_lapsed_outside_it(shown: Any) -> None:
    lines = shown(100)
    starts = [
        line.split()[0]
        for line in lines
        if line.split()[:1] and line.split()[0] in ("small", "together", "inactive")
    ]
    assert starts[:3] == ["small", "together", "inactive"]
    [together] = [line for line in lines if line.startswith("together")]
    assert together.split()[1:4] == ["3", "10,000,029", "100%"]


def test_what_comes_from_outside_is_shown_as_it_is(shown: Any) -> None:
    text = "\n".join(shown(120))
    assert "[red]A[/red]" in text
    assert "[b]29,934 EUR[/b]" in text
    assert "no invoices [are] mapped" in text
    assert f"▲ {CJK} → {LONG}: 1" in text


def test_a_long_sentence_hangs_below_its_first_line(shown: Any) -> None:
    lines = shown(80)
    [first] = [i for i, line in enumerate(lines) if "Business of the last" in line]
    assert lines[first].startswith("    + Business")
    assert lines[first + 1].startswith("      ")
    assert lines[first + 1][6] != " "
