"""Tokenizers: bytes, antibodies, and whatever `transformers.AutoTokenizer` loads. All are fixed before the corpus."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tokenbounds.antibodies import iglm, vocabulary
from tokenbounds.config import AntibodyTokenizer, ByteTokenizer, IglmTokenizer, TokenizerSpec, TransformersTokenizer
from tokenbounds.errors import CorpusError
from tokenbounds.files import canonical_json, sha256_bytes


class Tokenizer(Protocol):
    """What the rest of the project needs of a tokenizer.

    Attributes
    ----------
    identity : str
        Human-readable name.
    sha256 : str
        Hash of everything that decides how text becomes tokens.
    vocabulary_size : int
        Every id it emits is below this number.
    start_id : int
        The token that stands before a document's first one.
    leading : int
        Tokens that it puts before every text, to which no label of the text belongs.
    """

    identity: str
    sha256: str
    vocabulary_size: int
    start_id: int
    leading: int

    def encode(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Turn texts into arrays of token ids, without special tokens."""
        ...


class Bytes:
    """One token a byte: text as UTF-8, bytes as they are. The start token is NUL."""

    identity = "bytes"
    sha256 = sha256_bytes(b"one token a byte; vocabulary 256; start 0")
    vocabulary_size = 256
    start_id = 0
    leading = 0

    def encode(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Return each text's bytes as uint8[n]."""
        return [np.frombuffer(_as_bytes(text), dtype=np.uint8) for text in texts]


class Antibodies:
    """One token a residue, gap or bracketed special token; anything else is an error. The start token is `[CLS]`."""

    identity = "antibody"
    sha256 = sha256_bytes(canonical_json({"tokens": vocabulary.TOKENS, "start": vocabulary.START_ID}).encode())
    vocabulary_size = len(vocabulary.TOKENS)
    start_id = vocabulary.START_ID
    leading = 0

    def encode(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Return each text's token ids as uint8[n].

        Raises
        ------
        CorpusError
            If a text holds what is no token.
        """
        return [
            vocabulary.encode_text(text.decode("latin-1") if isinstance(text, bytes) else text.strip())
            for text in texts
        ]


class Iglm:
    """IgLM's tokens: the species before the residues, `[SEP]` behind them. The start token is the kind of chain."""

    vocabulary_size = len(iglm.TOKENS)
    leading = 1

    def __init__(self, spec: IglmTokenizer) -> None:
        self.identity = f"iglm {spec.chain} {spec.species}"
        self.start_id = iglm.LIGHT_ID if spec.chain == "light" else iglm.HEAVY_ID
        self._species = [iglm.SPECIES_IDS[spec.species]]
        told = {"tokens": iglm.TOKENS, "start": self.start_id, "species": self._species}
        self.sha256 = sha256_bytes(canonical_json(told).encode())

    def encode(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Return the token ids of single sequences, int64[n].

        Raises
        ------
        CorpusError
            If a text is anything but residues and a separator.
        """
        decoded = [text.decode("latin-1") if isinstance(text, bytes) else text.strip() for text in texts]
        chains = [iglm.encode_residues(text.removesuffix(vocabulary.SEPARATOR)) for text in decoded]
        return [np.concatenate([self._species, chain, [iglm.SEP_ID]]) for chain in chains]


class Pretrained:
    """A tokenizer of transformers. Bytes that are not UTF-8 become replacement characters first."""

    leading = 0

    def __init__(self, tokenizer: Any, identity: str) -> None:
        self.identity = identity
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self.vocabulary_size = max(len(tokenizer), max(vocabulary.values(), default=-1) + 1)
        self.start_id = _start_id(tokenizer, identity)
        self.sha256 = sha256_bytes(self._canonical(vocabulary).encode())

    def _canonical(self, vocabulary: dict[str, int]) -> str:
        """A text that differs whenever tokenization may differ."""
        if self._backend is not None:
            return self._backend.to_str()
        return canonical_json({"class": type(self._tokenizer).__name__, "vocabulary": vocabulary})

    def encode(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Return each text's token ids as int64[n], without special tokens."""
        decoded = [text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text for text in texts]
        if self._backend is not None:
            encodings = self._backend.encode_batch_fast(decoded, add_special_tokens=False)
            return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        encoded = self._tokenizer(decoded, add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(ids, dtype=np.int64) for ids in encoded]


def load_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """Load the tokenizer a corpus row names.

    Raises
    ------
    CorpusError
        If it cannot be loaded, or has neither a beginning-of-sequence nor an end-of-sequence token.
    """
    if isinstance(spec, ByteTokenizer):
        return Bytes()
    if isinstance(spec, AntibodyTokenizer):
        return Antibodies()
    if isinstance(spec, IglmTokenizer):
        return Iglm(spec)
    place, identity = _locate(spec)
    from transformers import AutoTokenizer

    options: dict[str, Any] = {} if spec.gguf_file is None else {"gguf_file": spec.gguf_file}
    if spec.revision is not None:
        options["revision"] = spec.revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    except Exception as error:
        raise CorpusError(
            f"cannot load tokenizer {identity}: {error}. Give a folder with tokenizer files, a GGUF file by "
            "'gguf_file', or a hub name this machine can reach."
        ) from error
    return Pretrained(tokenizer, identity)


def _locate(spec: TransformersTokenizer) -> tuple[str, str]:
    """Where transformers finds the tokenizer, and its name for people: folder, installed package or hub name."""
    place = spec.name
    if spec.package is not None:
        found = importlib.util.find_spec(spec.package)
        if found is None or not found.submodule_search_locations:
            raise CorpusError(f"tokenizer: the package {spec.package} is not installed. Install it with pip.")
        place = next(iter(found.submodule_search_locations))
    if place is None:
        raise CorpusError("tokenizer: give exactly one of 'name' and 'package'.")
    if spec.gguf_file is not None and Path(place).is_dir() and not (Path(place) / spec.gguf_file).is_file():
        raise CorpusError(f"tokenizer: {Path(place) / spec.gguf_file} does not exist. Correct 'gguf_file'.")
    identity = spec.package or place
    identity += f"@{spec.revision}" if spec.revision else ""
    return place, identity + (f":{spec.gguf_file}" if spec.gguf_file else "")


def _start_id(tokenizer: Any, identity: str) -> int:
    for candidate in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    raise CorpusError(
        f"tokenizer {identity} has neither a beginning-of-sequence nor an end-of-sequence token, so a document's "
        "first token has no context. Set its bos_token."
    )


def _as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", errors="surrogatepass")
