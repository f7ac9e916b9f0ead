"""What all programs share: options, progress, logs and exit codes. Imports nothing heavy, so `--help` is quick."""

from __future__ import annotations

import functools
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clv.errors import ClvError, ConfigError

LOG = logging.getLogger("clv")

ConfigPath = Annotated[
    Path, typer.Option("--config", help="The company's YAML file, e.g. configs/demo.yaml.")
]
AsOf = Annotated[
    datetime,
    typer.Option("--as-of", formats=["%Y-%m-%d"], help="Facts dated strictly before this day are visible."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting, e.g. --set tiers.band_ratio=0.1; may be repeated."),
]
LogFormat = Annotated[Literal["text", "json"], typer.Option(help="Plain lines, or one JSON object a line.")]


def start_logging(log_format: str) -> None:
    """Log lines on stderr: plain, or JSON for machines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else logging.Formatter("%(message)s"))
    LOG.handlers[:] = [handler]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


def months(first: date, last: date) -> list[date]:
    """`first` and the same day of every later month up to `last`."""
    from clv.period import add_months

    days = [first]
    while (following := add_months(first, len(days))) <= last:
        days.append(following)
    return days


def models_run(text: str | None) -> str | None:
    """The training run named by `run:ID`."""
    if text is None:
        return None
    kind, _, name = text.partition(":")
    if kind != "run" or not name:
        raise ConfigError(f"--models expects run:ID with the id of a training run, found {text!r}.")
    return name


def write_text(path: Path, text: str) -> None:
    """A report that was asked for as a file, in a folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show that `what` is under way, and how long it took: a spinner on a terminal, a log line otherwise."""
    started = time.monotonic()
    if sys.stderr.isatty() and not _logs_json():
        from rich.console import Console

        with Console(stderr=True).status(what):
            yield
    else:
        yield
    LOG.info("%-58s %5.1f s", what, time.monotonic() - started)


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """`command` as a program: an error the user can mend ends it with one paragraph on stderr and its exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = command(*args, **kwargs)
        except ClvError as error:
            _say_error(error)
            raise typer.Exit(error.exit_code) from error
        raise typer.Exit(code or 0)

    return run


def run(command: Callable[..., Any]) -> None:
    """Run `command`, a function of typer options, as the program."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(guarded(command))
    app()


def _say_error(error: ClvError) -> None:
    """One paragraph on stderr, or one JSON line where the log is JSON."""
    if _logs_json():
        LOG.error("%s", error)
        return
    sys.stderr.write("\n".join(line for line in str(error).splitlines() if line.strip()) + "\n")


def _logs_json() -> bool:
    return any(isinstance(handler.formatter, _Json) for handler in LOG.handlers)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        return json.dumps({"at": at, "level": record.levelname.lower(), "message": record.getMessage()})
