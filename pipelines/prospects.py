"""The list of prospects that sales open: by expected value, with why, from the newest published month."""

from __future__ import annotations

from typing import Annotated

import typer

from clv import program
from clv.program import AsOf, ConfigPath, LogFormat, Overrides


def main(
    config: ConfigPath,
    as_of: AsOf,
    top: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 20,
    set_: Overrides = None,
    log_format: LogFormat = "text",
) -> None:
    """Show the prospects as they stand on a day; scores that are no longer good that day are counted, not ranked."""
    from clv.config import load

    program.start_logging(log_format)
    settings = load(config, set_ or ())

    from clv.prospect_list import prospect_list, show

    show(settings, prospect_list(settings, as_of.date(), top))


if __name__ == "__main__":
    program.run(main)
