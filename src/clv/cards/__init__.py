"""One customer or prospect on a card: what a published month says of it, in words."""

from clv.cards.facts import Facts, read_facts
from clv.cards.layout import as_markdown, as_table
from clv.cards.wording import Card, Reason, card

__all__ = ["Card", "Facts", "Reason", "as_markdown", "as_table", "card", "read_facts"]
