"""What centres other than entropies are made of (docs/bounds.md, "Cross-entropies as centres")."""

from __future__ import annotations

from tokenbounds.models.online.card import OnlineCard

# Fixed for every score file that has such a column: where one of these changes, so must the schema version.
CENTRE_ALPHA, CENTRE_TILT = 0.01, 0.25
CENTRE_TABLE_BITS = 22


def centre_reference(vocabulary_size: int, order: int) -> OnlineCard:
    """The n-grams whose prediction says what a model is expected to lose."""
    return OnlineCard(CENTRE_TABLE_BITS, vocabulary_size, order)
