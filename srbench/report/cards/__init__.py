"""One report over several cards: ratios side by side, no verdict between them."""

from srbench.report.cards.digest import Digest, digest_run
from srbench.report.cards.page import cards_table, write_cards

__all__ = ["Digest", "cards_table", "digest_run", "write_cards"]
