"""The pictures and cards of the documentation: the demo company's month, and each policy of tiers on its customers.

    python pipelines/pictures.py --config configs/demo.yaml --as-of 2026-03-01 --out docs

Reads the published month and writes PNG files: `pyramid.png`, `policies/<policy>.png`, `policies/quadrants.png`; and
`reasons.md`, five cards in every language.
"""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from clv import program
from clv.program import AsOf, ConfigPath, Overrides
from score import score

if TYPE_CHECKING:
    import pandas as pd

    from clv.config import Config

# Policies as the documentation shows them: what is chosen, beside the demo's other settings.
SHOWN = {
    "pyramid": {},
    "three_classes": {"policy": "three_classes"},
    "value_shares": {"policy": "value_shares"},
    "counts": {"policy": "counts", "counts": {"key account": 25, "inside sales": 300}, "basic": "web shop"},
    "thresholds": {
        "policy": "thresholds",
        "thresholds": {"gold": 20_000, "silver": 5_000, "bronze": 1_000},
        "measure": "order_amount",
    },
}

# Whose cards are shown: the first by rank of whom this holds, and nobody twice.
CARDS = {
    "the first of the key customers": "tier = '{key}' AND tier_rule IN ('rank', 'band')",
    "a gate": "tier_rule LIKE 'gate:%'",
    "an account group": "group_tier <> tier AND tier <> 'inactive'",
    "a bad payer": "tier_rule IN ('rank', 'band') AND customer_id IN (SELECT customer_id FROM clv.reasons AS r "
    "WHERE r.as_of_date = g.as_of_date AND criterion = 'payment' AND points < -3)",
    "a prospect": "value_source = 'prospect' AND customer_id IN (SELECT customer_id FROM clv.reasons AS r "
    "WHERE r.as_of_date = g.as_of_date AND concept = 'judgement' AND points < 0)",
}
CARDS_PAGE = """# Reasons, on cards

Five of the demo company's customers and prospects as `pipelines/explain.py` tells them, in every language there is
({shown}).
How the points come about is in [method.md](method.md#reasons). One of them on the terminal:

    python pipelines/explain.py --config {config} --customer {first} --as-of {as_of} --set language=zh

(`python pipelines/pictures.py --config {config} --as-of {as_of}` writes this page.)
"""


def cards_page(config: Config, as_of: date, path: Path) -> str:
    """Five cards in every language, as Markdown; `path` is where the configuration lies."""
    from clv import cards, publish
    from clv.settings import languages

    shown: dict[str, str] = {}
    with publish.reader(config) as read:
        for what, condition in CARDS.items():
            holds = condition.format(key=config.tiers.key[0])
            found = read(
                f"SELECT customer_id FROM clv.grades AS g WHERE as_of_date = ? AND ({holds}) "
                "ORDER BY composite_rank, customer_id",
                as_of,
            )["customer_id"]
            free = found[~found.isin(list(shown.values()))]
            if len(free):
                shown[what] = str(free.iloc[0])
    named = ", ".join(shown)
    text = CARDS_PAGE.format(shown=named, config=path, as_of=as_of, first=next(iter(shown.values())))
    for language in languages.built_in():
        heading = languages.content(language)["name"]
        with TemporaryDirectory() as folder:
            settings = told_in(language, config, as_of, Path(folder))
            told = [
                cards.card(cards.read_facts(settings, as_of, customer), settings)
                for customer in shown.values()
            ]
        text += "\n".join([f"\n## {heading}\n", *(cards.as_markdown(card) for card in told)])
    return text


def told_in(language: str, config: Config, as_of: date, folder: Path) -> Config:
    """The settings to read the month in a language; where it is another one, of a copy graded again in `folder`.

    Changes and paths are sentences of the language in which their month was published.
    """
    if language == config.language:
        return config
    copy = shutil.copy(config.warehouse_path, folder / config.warehouse_path.name)
    warehouse = config.warehouse.model_copy(update={"path": str(copy)})
    settings = config.model_copy(update={"language": language, "warehouse": warehouse})
    score(settings, as_of)
    return settings


def published(config: Config, as_of: date) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tier summary of the customers, and their grades, as published."""
    from clv import publish

    with publish.reader(config) as read:
        of_month = "WHERE as_of_date = ? AND value_source = 'history'"
        summary = read(f"SELECT * FROM clv.tier_summary {of_month} ORDER BY position", as_of)
        grades = read(f"SELECT * FROM clv.grades {of_month} ORDER BY composite_rank, customer_id", as_of)
    return summary[summary["tier"] != "inactive"], grades[grades["tier"] != "inactive"]


def recut(grades: pd.DataFrame, chosen: dict[str, object]) -> pd.DataFrame:
    """Customers and contribution by tier under another policy, by the published composite, gates left out."""
    import pandas as pd

    from clv import policies, tiers
    from clv.settings.grading import TierSettings

    settings = TierSettings.model_validate(chosen)
    nobody = pd.Series(None, index=grades.index, dtype="str")
    frame = grades[["customer_id", "composite_score", "contribution_margin", "order_amount", "clv"]].assign(
        tie_break=grades["clv"], gate=nobody, is_provisional=False, previous_tier=nobody, override_tier=nobody
    )
    assigned = tiers.assign(frame, policies.cut_of(frame, settings), settings.key, settings.band_ratio)
    held = assigned.groupby("tier")["contribution_margin"].agg(["size", "sum"]).reindex(list(settings.names))
    held = held.set_axis(["customers", "contribution_margin"], axis=1).fillna(0.0)
    return held.reset_index(names="tier")


def main(
    config: ConfigPath,
    as_of: AsOf,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("docs"),
    set_: Overrides = None,
) -> None:
    """Draw the pictures of the documentation from a published month."""
    from clv import plots
    from clv.config import load

    program.start_logging("text")
    settings = load(config, set_ or ())
    day = as_of.date()
    summary, grades = published(settings, day)
    folder = out / "policies"
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{settings.company.capitalize()}, {day}: customers and profit by tier"
    plots.pyramid(summary, title=title).savefig(out / "pyramid.png", dpi=120)
    for name, chosen in SHOWN.items():
        table = recut(grades, chosen)
        plots.pyramid(table, title=f"Policy {name}").savefig(folder / f"{name}.png", dpi=110)
    plots.quadrants(grades, settings.quadrants).savefig(folder / "quadrants.png", dpi=110)
    program.write_text(out / "reasons.md", cards_page(settings, day, config))
    for path in (out / "reasons.md", out / "pyramid.png", *sorted(folder.glob("*.png"))):
        program.LOG.info("%s", path)


if __name__ == "__main__":
    program.run(main)
