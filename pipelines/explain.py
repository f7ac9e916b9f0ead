"""Why one customer or prospect is graded as it is: its card from the published month, on the terminal.

    python pipelines/explain.py --config configs/demo.yaml --customer C001207 --as-of 2026-03-01

`--customer` may be repeated; `--set language=zh` tells it in Chinese; `--markdown FILE` writes the cards as a page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clv import program
from clv.program import AsOf, ConfigPath, LogFormat, Overrides


def main(
    config: ConfigPath,
    as_of: AsOf,
    customer: Annotated[list[str], typer.Option(help="Id of a customer or prospect; may be repeated.")],
    markdown: Annotated[Path | None, typer.Option(help="Write the cards as Markdown to this file.")] = None,
    set_: Overrides = None,
    log_format: LogFormat = "text",
) -> None:
    """Explain customers by the newest month published on or before --as-of. Reads the warehouse, computes nothing."""
    from clv.config import load

    program.start_logging(log_format)
    settings = load(config, set_ or ())

    from clv import cards
    from clv.console import show_card

    written = [cards.card(cards.read_facts(settings, as_of.date(), one), settings) for one in customer]
    if markdown is not None:
        program.write_text(markdown, "\n".join(cards.as_markdown(card) for card in written))
        return
    for card in written:
        show_card(card)


if __name__ == "__main__":
    program.run(main)
