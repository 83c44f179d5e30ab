"""The seed of a sample that nobody chose (docs/bounds.md, "Sampling")."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

_BYTES = 6  # whole numbers that every reader of JSON keeps exactly


def derive_seed(shard_hashes: Iterable[str]) -> int:
    """Seed of a sample from the hashes of the corpus's token shards: to get another one takes another corpus.

    Parameters
    ----------
    shard_hashes
        SHA-256 of every shard, in order, as the manifest has them.
    """
    text = "\n".join(["tokenbounds sample", *shard_hashes])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:_BYTES], "big")
