"""A company without a conversion on record: prospects graded by judgement alone, for two months, and the list of them.

Also what a month leaves in MLflow, and that prospects leave their pyramid with the first order.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from clv import evidence, prospect_list, publish, tracking
from clv.config import Config, load
from clv.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
JANUARY, FEBRUARY = date(2026, 1, 1), date(2026, 2, 1)
HEADER = "customer_id,criterion,score,judged_by,judged_date,valid_until,note"
NAMES = ("Anna Ω", "[bold]Bo[/bold]")
JUDGEMENTS = [
    "Q001,prospect,85,Anna Ω,2025-12-10,2026-06-30,met at the fair",
    'Q002,prospect,20,Anna Ω,2025-11-10,2026-01-15,"[red]maybe[/red] later; =1+1"',
    "Q005,prospect,60,[bold]Bo[/bold],2025-12-01,,\x1b[31mred\u202eder",
    "Q007,prospect,70,[bold]Bo[/bold],2025-06-01,2025-09-01,expired",
    "Q006,prospect,95,Anna Ω,2025-12-20,2026-06-30,orders soon",
]


def read(name: str) -> list[dict[str, str]]:
    with (GOLDEN / "company" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The tiny company whose customers' first contact was never written down, so that nobody was seen to convert.

    Their first order stands for it (ingest), and there is no day on which one of them was a prospect. Q006 orders in
    January.
    """
    place = tmp_path_factory.mktemp("judged")
    lines, people = read("order_lines"), read("customers")
    buyers = {line["customer_id"] for line in lines}
    for person in people:
        if person["customer_id"] in buyers:
            person["first_contact_date"] = ""
    order = next(line for line in lines if line["order_date"].startswith("2025-1"))
    own = {name: "" for name in order if name.endswith("line_id")}
    lines.append(order | own | {"order_id": "new", "customer_id": "Q006", "order_date": "2026-01-10"})
    (place / "judgements.csv").write_text("\n".join([HEADER, *JUDGEMENTS]) + "\n", encoding="utf-8")
    return [
        f"sources.customers.path={write(place / 'customers.csv', people)}",
        f"sources.order_lines.path={write(place / 'order_lines.csv', lines)}",
        f"sources.judgements.path={place / 'judgements.csv'}",
        f"warehouse.path={place / 'tiny.duckdb'}",
        f"mlflow.tracking_uri=sqlite:///{place}/mlflow.db",
        f"mlflow.artifact_dir={place / 'artifacts'}",
        "tiers.firmness_months=2",
        "fairness.groups=[industry]",
    ]


@pytest.fixture(scope="module")
def config(settings: list[str], pipelines: SimpleNamespace) -> Config:
    found = load(GOLDEN / "tiny.yaml", settings)
    pipelines.train(found, JANUARY)
    for month in (JANUARY, FEBRUARY):
        pipelines.score(found, month)
    return found


@pytest.fixture(scope="module")
def ask(config: Config) -> Callable[..., pd.DataFrame]:
    def query(sql: str, *parameters: object) -> pd.DataFrame:
        with publish.reader(config) as reading:
            return reading(sql, *parameters)

    return query


pytestmark = pytest.mark.slow  # one training, and two months


def test_without_a_conversion_on_record_judgement_alone_grades_with_tiers_reasons_and_sources(
    ask: Callable[..., pd.DataFrame],
) -> None:
    grades = ask(
        "SELECT * FROM clv.grades WHERE as_of_date = ? AND value_source = 'prospect' ORDER BY composite_rank",
        JANUARY,
    ).set_index("customer_id")
    assert grades.index[:4].tolist() == ["Q006", "Q001", "Q005", "Q002"]
    assert grades["composite_score"].tolist()[:4] == [95, 85, 60, 20]
    assert grades["prospect_value"].isna().all()
    assert set(grades["tier"]) <= {"hot", "warm", "cool", "cold"}
    assert grades["tier"].notna().all()
    assert grades["is_provisional"].tolist() == [False] * 4 + [True] * (len(grades) - 4)
    sources = ask("SELECT * FROM clv.criteria WHERE as_of_date = ? AND criterion = 'prospect'", JANUARY)
    why = sources.set_index("customer_id")["why"]
    assert why["Q001"] == (
        "judged by sales alone: 85 of 100 by Anna Ω on 2025-12-10, counts until 2026-06-30: met at the fair"
    )
    assert (
        why["Q005"]
        == "judged by sales alone: 60 of 100 by [bold]Bo[/bold] on 2025-12-01: \x1b[31mred\u202eder"
    )
    assert (
        why["Q007"] == "no prospect's conversion is on record: first_contact_date or attributes are missing"
    )
    reasons = ask(
        "SELECT customer_id, sentence, points FROM clv.reasons WHERE as_of_date = ? AND position = 1", JANUARY
    )
    said = reasons.set_index("customer_id")
    assert said.loc["Q001", "sentence"].startswith("Judged by sales at 85 of 100")
    assert said.loc["Q001", "points"] == 35


def test_a_judgement_expires_on_its_last_day(ask: Callable[..., pd.DataFrame]) -> None:
    scores = ask("SELECT as_of_date, composite_score FROM clv.grades WHERE customer_id = 'Q002' ORDER BY 1")
    assert scores["composite_score"].iloc[0] == 20
    assert pd.isna(scores["composite_score"].iloc[1])  # it counted until 2026-01-15


def test_a_prospect_leaves_the_prospects_pyramid_with_the_first_order(
    ask: Callable[..., pd.DataFrame],
) -> None:
    rows = ask("SELECT * FROM clv.grades WHERE customer_id = 'Q006' ORDER BY as_of_date")
    assert rows["value_source"].tolist() == ["prospect", "history"]
    assert rows["tier"].iloc[0] in ("hot", "warm")
    assert rows["tier"].iloc[1] not in ("hot", "warm", "cool", "cold")
    assert pd.isna(rows["previous_tier"].iloc[1])
    assert rows["tier_change"].iloc[1] == "new"
    assert pd.isna(rows["prospect_valid_until"].iloc[1])


def shown(
    monkeypatch: pytest.MonkeyPatch, config: Config, day: date, top: int = 20, width: int = 80
) -> list[str]:
    text = io.StringIO()
    screen = Console(file=text, width=width, highlight=False, markup=False, emoji=False)
    monkeypatch.setattr(prospect_list, "terminal", lambda: screen)
    prospect_list.show(config, prospect_list.prospect_list(config, day, top))
    return text.getvalue().splitlines()


def test_the_list_shows_rank_score_until_when_why_and_who_judged(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(monkeypatch, config, date(2026, 1, 20))
    assert max(map(cell_len, lines)) <= 80
    ranks = [line.split() for line in lines if re.match(r" *\d+ +Q\d+ ", line)]
    assert [row[1] for row in ranks] == ["Q006", "Q001", "Q005", "Q002"]
    assert ranks[0][2:] == ["Lead", "6", "hot", "score", "95"]
    text = " ".join(" ".join(lines).split())
    assert "good until 2026-03-02" in text
    assert "✎ judged by sales alone: 60 of 100 by [bold]Bo[/bold] on 2025-12-01" in text
    assert "[red]maybe[/red] later; =1+1" in text
    assert " [31mred der" in text  # shown, not obeyed
    assert not {"\x1b", "\u202e"} & set(text)
    assert "not ranked: neither a forecast nor a valid judgement" in text


def test_the_list_is_of_the_newest_month_published_by_the_day(config: Config) -> None:
    assert prospect_list.prospect_list(config, date(2026, 1, 31), 5).as_of == JANUARY
    newest = prospect_list.prospect_list(config, FEBRUARY, 1)
    assert newest.as_of == FEBRUARY
    assert newest.ranked["customer_id"].tolist() == ["Q001"]
    assert newest.total == 2  # Q002's judgement has expired, Q006 has ordered
    with pytest.raises(ConfigError, match="Expected a month of tiny published on or before 2025-12-31"):
        prospect_list.prospect_list(config, date(2025, 12, 31), 5)


def test_a_score_older_than_its_validity_is_stale_and_leaves_the_ranking(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = date(2026, 4, 2)  # 60 days after February
    good = prospect_list.prospect_list(config, last, 20)
    assert (good.total, good.stale) == (2, 0)
    late = prospect_list.prospect_list(config, date(2026, 4, 3), 20)
    assert late.ranked.empty
    assert late.stale == good.total + good.unknown
    text = " ".join(" ".join(shown(monkeypatch, config, date(2026, 4, 3))).split())
    assert f"{late.stale} stale, not ranked: their scores were good until 2026-04-02" in text
    assert "Q001" not in text


def test_the_program_shows_the_list_and_names_what_is_missing(config: Config, settings: list[str]) -> None:
    options = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "pipelines/prospects.py", "--config", "tests/golden/tiny.yaml", *options]
    environment = os.environ | {"COLUMNS": "80"}
    done, early = (
        subprocess.run(
            [*command, "--as-of", day, "--top", "1"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        for day in ("2026-02-10", "2025-06-01")
    )
    assert done.returncode == 0, done.stderr
    assert "tiny: prospects on 2026-02-10" in done.stdout
    assert "Q001" in done.stdout
    assert "… and 1 more (--top 2 shows all)" in done.stdout
    assert early.returncode == 2
    assert "score.py --config" in early.stderr


def test_a_month_leaves_a_run_in_mlflow_linked_to_its_training_and_nobodys_name(config: Config) -> None:
    store = tracking.open_store(config.company, config.mlflow.tracking_uri, config.mlflow.artifact_dir)
    client = tracking._client(store.tracking_uri)
    runs = client.search_runs([tracking._experiment_id(store)], order_by=["attributes.start_time"])
    train, *months = runs
    assert [run.data.tags["kind"] for run in runs] == ["train", "score", "score"]
    assert [run.data.tags["as_of"] for run in months] == ["2026-01-01", "2026-02-01"]
    for run in months:
        assert run.info.status == "FINISHED"
        assert run.data.tags["training_run_id"] == train.info.run_id
        assert run.data.metrics["month/active_customers"] > 0
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        stored = {str(path.relative_to(folder)) for path in folder.rglob("*.json")}
        assert {"tiers.json", "prospects/disparity.json"} <= stored
    texts = "\n".join(
        path.read_text(encoding="utf-8") for path in Path(config.mlflow.artifact_dir).rglob("*.json")
    )
    people = [*NAMES, *(json.dumps(name)[1:-1] for name in NAMES), "Q001"]
    assert not [name for name in people if name in texts]


def test_what_goes_wrong_in_mlflow_undoes_no_month(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = tracking.open_store(config.company, config.mlflow.tracking_uri, config.mlflow.artifact_dir)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # a run that is not there
    monkeypatch.setattr(logging.getLogger("clv"), "propagate", True)
    facts = pd.DataFrame({"name": ["x"], "value": [1.0]})
    evidence.log_month(store, config, JANUARY, {}, facts, facts, {})
    assert "The month 2026-01-01 is published, but not in MLflow" in caplog.text
