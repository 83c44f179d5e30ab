"""Tokenizers: bytes, antibodies, and whatever `transformers.AutoTokenizer` loads. All are fixed before the corpus."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tokenbounds.antibodies import iglm, vocabulary
from tokenbounds.config import AntibodyTokenizer, ByteTokenizer, IglmTokenizer, TokenizerSpec, TransformersTokenizer
from tokenbounds.errors import CorpusError
from tokenbounds.files import canonical_json, check_name, check_no_pointer, sha256_bytes, sha256_file
from tokenbounds.software import package_folder

_PLACES = ("name_or_path", "_file", "_dir")
_FREE_IDS, _IDS_PER_TOKEN = 1 << 16, 16  # how far a number of a token may go beyond how many there are


class Tokenizer(Protocol):
    """What the rest of the project needs from a tokenizer.

    Attributes
    ----------
    identity : str
        Human-readable name.
    sha256 : str
        Hash of everything that decides how text becomes tokens.
    vocabulary_size : int
        Every id it emits is below this number.
    start_id : int
        The token that precedes a document's first one.
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

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn token ids, special ones too, into text for people; it need not be encoded to the same tokens again."""
        ...


class Bytes:
    """One token per byte: text as UTF-8, bytes as they are. The start token is NUL."""

    identity = "bytes"
    sha256 = sha256_bytes(b"one token a byte; vocabulary 256; start 0")
    vocabulary_size = 256
    start_id = 0
    leading = 0

    def encode(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Return each text's bytes as uint8[n]."""
        return [np.frombuffer(_as_bytes(text), dtype=np.uint8) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text; what is not UTF-8 becomes replacement characters."""
        return bytes(tokens).decode("utf-8", errors="replace")


class Antibodies:
    """One token per residue, gap or bracketed special token; anything else is an error. The start token is `[CLS]`."""

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
            If a text holds what is not a token.
        """
        return [
            vocabulary.encode_text(text.decode("latin-1") if isinstance(text, bytes) else text.strip())
            for text in texts
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return residues and bracketed special tokens."""
        return "".join(vocabulary.TOKENS[token] for token in tokens)


class Iglm:
    """IgLM's tokens: the species before the residues, `[SEP]` after them. The start token is the kind of chain."""

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

    def decode(self, tokens: Sequence[int]) -> str:
        """Return residues and bracketed special tokens."""
        return "".join(iglm.TOKENS[token] for token in tokens)


class Pretrained:
    """A tokenizer of transformers. Bytes that are not UTF-8, and lone surrogates, become replacement characters first.

    With `split_special_tokens` the string of a special token in a text is split like any other; otherwise the tokenizer
    decides, and usually makes it the special token.
    """

    leading = 0

    def __init__(self, tokenizer: Any, identity: str, *, split_special_tokens: bool = False) -> None:
        self.identity = identity
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
        self._tokenizer = tokenizer
        _refuse_random(tokenizer, self._backend, identity)
        if split_special_tokens:
            tokenizer.split_special_tokens = True
        self._splits = bool(getattr(tokenizer, "split_special_tokens", False))
        if self._backend is not None:
            self._backend.encode_special_tokens = self._splits
        vocabulary = tokenizer.get_vocab()
        self.vocabulary_size = max(len(tokenizer), max(vocabulary.values(), default=-1) + 1)
        if self.vocabulary_size > _FREE_IDS + _IDS_PER_TOKEN * len(vocabulary):
            raise CorpusError(
                f"tokenizer {identity} has {len(vocabulary):,} tokens and numbers one {self.vocabulary_size - 1:,}. "
                "Correct the number in its files."
            )
        self.start_id = _start_id(tokenizer, identity)
        self.sha256 = sha256_bytes(self._canonical(vocabulary).encode())

    def _canonical(self, vocabulary: dict[str, int]) -> str:
        """A text that differs whenever tokenization may differ."""
        splits = "\nsplit_special_tokens" if self._splits else ""
        if self._backend is not None:
            return f"{self._backend.to_str()}{splits}"
        told = {"class": type(self._tokenizer).__name__, "vocabulary": vocabulary}
        # Where its files are does not affect what it does.
        settings = {key: value for key, value in self._tokenizer.init_kwargs.items() if not key.endswith(_PLACES)}
        # Without a backend, vocabularies, merges and models are known only by the files that the tokenizer saves.
        with tempfile.TemporaryDirectory() as folder:
            saved = [Path(path) for path in self._tokenizer.save_vocabulary(folder) or () if path]
            hashes = {path.name: sha256_file(path) for path in saved if path.is_file()}
        told |= {"files": hashes, "settings": {k: repr(v) for k, v in settings.items()}}
        return canonical_json(told) + splits

    def encode(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Return each text's token ids as int64[n], without special tokens."""
        decoded = [
            (text if isinstance(text, bytes) else _as_bytes(text)).decode("utf-8", errors="replace") for text in texts
        ]
        try:
            if self._backend is not None:
                encodings = self._backend.encode_batch_fast(decoded, add_special_tokens=False)
                encoded = [encoding.ids for encoding in encodings]
            else:
                encoded = self._tokenizer(decoded, add_special_tokens=False, verbose=False)["input_ids"]
        except Exception as error:  # the library raises nothing more specific, e.g. for a text without [UNK]
            raise CorpusError(f"tokenizer {self.identity} cannot encode a text: {error}. Use another one.") from error
        return [np.array(ids, dtype=np.int64) for ids in encoded]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text that transformers makes of the tokens.

        Raises
        ------
        CorpusError
            If the tokenizer cannot do so.
        """
        try:
            return str(self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))
        except Exception as error:  # the library raises nothing more specific
            raise CorpusError(f"tokenizer {self.identity} cannot decode tokens: {error}. Use another one.") from error


def row_of_identity(identity: str) -> dict[str, str | bool] | None:
    """The keys of a tokenizer that needs no files, by what a manifest calls it; None for others."""
    words = identity.split(" ")
    if words[0] == "iglm" and len(words) == 3:
        return {"kind": "iglm", "chain": words[1], "species": words[2]}
    return {"kind": identity} if identity in ("bytes", "antibody") else None


def named_tokenizer(place: str) -> Tokenizer:
    """A tokenizer in a word: `bytes`, `antibody`, or the folder, GGUF file or hub name of one of transformers.

    Raises
    ------
    CorpusError
        As `load_tokenizer`.
    """
    if place in ("bytes", "antibody"):
        return Bytes() if place == "bytes" else Antibodies()
    path = Path(place)
    check_name(path, CorpusError)
    folder, file = (str(path.parent), path.name) if path.is_file() else (place, None)
    return load_tokenizer(TransformersTokenizer(kind="transformers", name=folder, gguf_file=file))


def load_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """Load the tokenizer a corpus row names.

    Raises
    ------
    CorpusError
        If it cannot be loaded, or has neither a beginning-of-sequence nor an end-of-sequence token.
    """
    match spec:
        case ByteTokenizer():
            return Bytes()
        case AntibodyTokenizer():
            return Antibodies()
        case IglmTokenizer():
            return Iglm(spec)
    place, identity = _locate(spec)
    from transformers import AutoTokenizer

    # Without a file that is a link to nothing, transformers would build another tokenizer from those left.
    for path in sorted(Path(place).iterdir()) if Path(place).is_dir() else []:
        if path.is_symlink() and not path.exists():
            raise CorpusError(f"{path} is a link to {path.readlink()}, which does not exist. Restore or remove it.")
    if (Path(place) / "tokenizer.json").is_file():
        check_no_pointer(Path(place) / "tokenizer.json", CorpusError)
    options: dict[str, Any] = {} if spec.gguf_file is None else {"gguf_file": spec.gguf_file}
    if spec.revision is not None:
        options["revision"] = spec.revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    except Exception as error:
        wanting = any(package in str(error).lower() for package in ("sentencepiece", "tiktoken"))
        if wanting and importlib.util.find_spec("sentencepiece") is None:
            raise CorpusError(
                f"cannot load tokenizer {identity}: it has no tokenizer.json, and the package sentencepiece, which "
                "reads its tokenizer.model, is not installed. Install it, or save the tokenizer as tokenizer.json."
            ) from error
        raise CorpusError(
            f"cannot load tokenizer {identity}: {error}. Give a folder with tokenizer files, a GGUF file by "
            "'gguf_file', or a hub name this machine can reach."
        ) from error
    if spec.gguf_file is not None:
        _set_space_prefix(tokenizer, Path(place) / spec.gguf_file, spec, identity)
    return Pretrained(tokenizer, identity, split_special_tokens=spec.split_special_tokens)


def _locate(spec: TransformersTokenizer) -> tuple[str, str]:
    """Where transformers finds the tokenizer, and its readable name: folder, installed package or hub name."""
    place = spec.name
    if spec.package is not None:
        folder = package_folder(spec.package)
        if folder is None:
            raise CorpusError(f"tokenizer: the package {spec.package} is not installed. Install it with pip.")
        place = str(folder)
    if place is None:
        raise CorpusError("tokenizer: give exactly one of 'name' and 'package'.")
    check_name(Path(place, spec.gguf_file or ""), CorpusError)
    if spec.gguf_file is not None and Path(place).is_dir() and not (Path(place) / spec.gguf_file).is_file():
        raise CorpusError(f"tokenizer: {Path(place) / spec.gguf_file} does not exist. Correct 'gguf_file'.")
    identity = spec.package or place
    identity += f"@{spec.revision}" if spec.revision else ""
    return place, identity + (f":{spec.gguf_file}" if spec.gguf_file else "")


def _refuse_random(tokenizer: Any, backend: Any, identity: str) -> None:
    """Refuse a tokenizer that chooses tokens at random: BPE with dropout, SentencePiece with sampling."""
    dropout = getattr(getattr(backend, "model", None), "dropout", None)
    sampled = (getattr(tokenizer, "sp_model_kwargs", None) or {}).get("enable_sampling")
    if dropout or sampled:
        what = f"drops merges at random (dropout {dropout:g})" if dropout else "samples its tokens (enable_sampling)"
        raise CorpusError(f"tokenizer {identity} {what}: a text's tokens are not fixed. Switch that off in its files.")


def _set_space_prefix(tokenizer: Any, path: Path, spec: TransformersTokenizer, identity: str) -> None:
    """Let the GGUF file decide whether SentencePiece puts a space before a text; transformers always does."""
    from gguf import GGUFReader

    if not path.is_file():
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(str(spec.name), str(spec.gguf_file), revision=spec.revision))
    fields = GGUFReader(path).fields
    model, prefix = (fields.get(f"tokenizer.ggml.{key}") for key in ("model", "add_space_prefix"))
    if prefix is None or prefix.contents() or model is None or model.contents() != "llama":
        return
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None or not isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        raise CorpusError(f"tokenizer {identity}: add_space_prefix = false is not supported for its kind.")
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="never", split=False)


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
