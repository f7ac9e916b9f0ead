"""Cost of one month on an invented company: each program's time and memory, as ratios to reading the tables once.

python benchmarks/month.py --customers 2000
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "check"


def main(
    customers: Annotated[int, typer.Option(help="Size of the company.")] = 2000,
    as_of: Annotated[str, typer.Option(help="Day to grade.")] = "2026-01-01",
) -> None:
    """Simulate, check, train and score in a temporary folder, each as a process of its own."""
    with tempfile.TemporaryDirectory(prefix="clv-benchmark-") as folder:
        place = [
            f"--set=warehouse.path={folder}/demo.duckdb",
            f"--set=mlflow.tracking_uri=sqlite:///{folder}/mlflow.db",
            f"--set=mlflow.artifact_dir={folder}/artifacts",
        ]
        company = ["--config", "configs/demo.yaml", "--as-of", as_of, *place]
        programs = {
            "simulate": ["--customers", str(customers), "--out", f"{folder}/demo.duckdb"],
            "check": company,
            "train": company,
            "score": company,
        }
        measured = {name: _measure(name, arguments) for name, arguments in programs.items()}
    table = Table(title=f"{customers:,} customers, as of {as_of}; ratios to {BASELINE}")
    for heading in ("program", "wall s", "ratio", "CPU s", "ratio", "peak MB", "ratio"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for name, figures in measured.items():
        cells = [name]
        for figure, base in zip(figures, measured[BASELINE], strict=True):
            cells += [f"{figure:,.1f}", f"{figure / base:.1f}"]
        table.add_row(*cells)
    Console().print(table)


def _measure(name: str, arguments: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak megabytes of one run, by the operating system's own account."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "pipelines" / f"{name}.py"), *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{name} ended with {process.returncode}")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
