"""What a scheduler calls once a month: train, then grade and publish."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from clv import program
from clv.errors import ConfigError
from clv.program import ConfigPath, LogFormat, Overrides
from score import score
from train import train


def main(
    config: ConfigPath,
    as_of: Annotated[
        list[datetime] | None,
        typer.Option(
            "--as-of",
            formats=["%Y-%m-%d"],
            help="The month's day; may be repeated. Without it: example_months of the configuration.",
        ),
    ] = None,
    set_: Overrides = None,
    log_format: LogFormat = "text",
) -> None:
    """Train and promote, then grade everybody and publish: one month, or several in a row."""
    from clv.config import load

    program.start_logging(log_format)
    settings = load(config, set_ or ())
    days = sorted(day.date() for day in as_of) if as_of else settings.example_months
    if not days:
        raise ConfigError(
            f"--as-of is needed: {config} names no example_months. Give the first day of the month."
        )

    from clv.console import show_month, show_receipt  # seconds, which a mistyped setting should not wait for

    for day in days:
        train(settings, day)
        show_receipt(day, score(settings, day))
    show_month(settings, days[-1])


if __name__ == "__main__":
    program.run(main)
