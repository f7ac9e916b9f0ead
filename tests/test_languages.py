"""Languages are files: alike in their keys, complete, and a company can bring its own without code."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clv.config import load
from clv.errors import ConfigError
from clv.explain.words import Words
from clv.features import Feature
from clv.settings import languages

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"
DAYS = Feature("days_since_last_purchase", "still_active", -1, "days")


@pytest.fixture
def english() -> dict[str, Any]:
    return copy.deepcopy(dict(languages.content("en")))


def saved(content: Any, folder: Path, name: str = "fr.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("language", languages.built_in())
def test_languages_have_the_same_keys_and_placeholders(language: str) -> None:
    assert languages.differences(languages.content(language)) == []


@pytest.mark.parametrize("language", languages.built_in())
def test_no_text_is_empty_or_left_in_english(language: str) -> None:
    english = dict(languages._leaves(languages.content("en")))
    own = dict(languages._leaves(languages.content(language)))
    spared = (
        "numbers",
        "labels_capitalised",
        "date",
        "card.next",
        "concepts.attribute.name",
        "concepts.standard.name",
    )
    for path, text in own.items():
        if path.startswith(spared):
            continue
        assert text not in ("", None), path
        assert language == "en" or text != english[path] or not str(text).isascii() or "{" in str(text), path


def test_chinese_numbers_money_and_days_read_as_written_there() -> None:
    words = Words.of(load(DEMO, ["language=zh"]))
    assert words.figure(1234567.4, "money") == "1,234,567 欧元"
    assert words.figure(-16.0, "money") == "−16 欧元"
    assert words.figure(0.93, "ratio") == "93%"
    assert words.figure(1.0, "days") == "1 天"
    assert words.figure(12.0, "days_beyond") == "逾期 12 天"
    assert words.figure(0.0, "days_beyond") == "到期当天"
    assert words.figure(3.0, "weekday") == "周三"
    assert words.points(np.array([-6.0, 1.0, 0.0])).tolist() == ["−6.0 分", "+1.0 分", "0.0 分"]
    assert words.label("industry") == "行业"
    assert (
        words.fact(DAYS, "contribution", words.figures(np.array([12.0]), "days"))[0] == "上次下单在 12 天前"
    )


def test_a_company_adds_a_language_without_code(english: dict[str, Any], tmp_path: Path) -> None:
    """Decimal comma, its own order of words, no plural in points, labels as they stand."""
    english["numbers"] = {"thousands": ".", "decimal": ",", "plus": "+", "minus": "-"}
    english["units"]["day"] = {"one": "{n} jour", "many": "{n} jours"}
    english["units"]["point"] = {"one": "{n} pt", "many": "{n} pt"}
    english["labels_capitalised"] = False
    english["currencies"] = {"EUR": "euros"}
    english["concepts"]["still_active"]["facts"]["days_since_last_purchase"] = (
        "Dernière commande il y a {own}"
    )
    path = saved(english, tmp_path)
    label = "attributes.industry.label={en: industry, fr: secteur}"
    words = Words.of(load(DEMO, [f"language={path}", label]))
    assert words.figure(1234.5, "number") == "1.234,5"
    assert words.figure(2000.0, "money") == "2.000 euros"
    assert words.points(np.array([-1.5])).tolist() == ["-1,5 pt"]
    found = words.fact(DAYS, "contribution", words.figures(np.array([1.0, 12.0]), "days"))
    assert found.tolist() == ["Dernière commande il y a 1 jour", "Dernière commande il y a 12 jours"]
    assert words.opening(words.label("industry")) == "secteur"


def test_a_language_file_that_is_not_complete_is_refused_when_settings_are_read(
    english: dict[str, Any], tmp_path: Path
) -> None:
    del english["units"]["day"]["many"]
    english["peer_fact"] = "{who}"
    english["horoscope"] = "?"
    english["units"]["weekday"] = english["units"]["weekday"][:6]
    path = saved(english, tmp_path)
    with pytest.raises(ConfigError) as refused:
        load(DEMO, [f"language={path}"])
    assert "4 differences" in str(refused.value)
    assert "units.day.many is missing" in str(refused.value)
    assert "horoscope is unknown" in str(refused.value)


@pytest.mark.parametrize(
    ("language", "says"), [("fr", "expected one of en, zh"), ("gone.yaml", "found none that can be read")]
)
def test_a_language_that_is_not_there_is_refused(language: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(DEMO, [f"language={language}"])


def test_a_label_may_be_one_text_or_one_by_language() -> None:
    both = {"en": "industry", "zh": "行业"}
    assert languages.label_in("branch", "zh") == "branch"
    assert languages.label_in(both, "zh") == "行业"
    assert languages.label_in(both, "company/zh.yaml") == "行业"
    assert languages.label_in(both, "fr.yaml") == "industry"
    assert languages.label_in({"zh": "行业"}, "en") == "行业"
