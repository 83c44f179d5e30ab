"""From a checkpoint to a message, outside any study: load, calibrate if needed, encode, score before and after."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, cast

from tokenbounds import __version__
from tokenbounds.compression.calibration.calibrate import calibrate_model
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.scored_text import score_text
from tokenbounds.compression.subject import Record
from tokenbounds.config import (
    ByteTokenizer,
    CalibrationSpec,
    MessageSpec,
    PretrainedModel,
    TransformersTokenizer,
    check_row,
    row_json,
)
from tokenbounds.config.quantizers import BEST_PRETRAINED, QUANTIZERS
from tokenbounds.config.yaml_file import parse_yaml, read_yaml
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.errors import ConfigError, CorpusError
from tokenbounds.files import read_json, sha256_file, write_json
from tokenbounds.models.checkpoint import load_card
from tokenbounds.models.pretrained.loading import import_pretrained
from tokenbounds.models.weights import CARD_FILE, weights_file

LOGGER = logging.getLogger(__name__)
MODEL_ROW = "model"
_CALIBRATION_ROW = "text"
_CALIBRATION_TOKENS = 65536
_WORK_FILE = "encoding.json"
_DEFAULT_BITS = 2.0  # a linear weight


@dataclass(frozen=True)
class Texts:
    """Files of text: what the quantizer is calibrated on, and what is scored before and after."""

    calibration: Path | None = None
    scored: Path | None = None


def read_text(path: Path, source: str, gguf_file: str | None, vocabulary_size: int) -> MemoryCorpus:
    """One text as a corpus of one document, in the tokens of a checkpoint's own tokenizer, or in bytes.

    Raises
    ------
    CorpusError
        If the text cannot be read, has fewer than two tokens, or has some that the model does not know.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}.") from error
    if vocabulary_size == 256 and not (Path(source) / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(ByteTokenizer(kind="bytes"))
    else:
        tokenizer = load_tokenizer(TransformersTokenizer(kind="transformers", name=source, gguf_file=gguf_file))
    tokens = tokenizer.encode([text])[0]
    if len(tokens) < 2:
        raise CorpusError(f"{path} has fewer than two tokens. Give a longer text.")
    if int(tokens.max()) >= vocabulary_size:
        raise CorpusError(f"the tokenizer of {source} knows tokens that the model of {vocabulary_size} does not.")
    return MemoryCorpus([tokens], vocabulary_size, tokenizer.start_id)


def message_spec(
    quantizer: str | None,
    options: list[str],
    config: Path | None,
    *,
    calibrated: bool = False,
    megabytes: float | None = None,
) -> MessageSpec:
    """The row of a message from the command line: a kind and `key=value` options, or a YAML file.

    With neither it is the best quantizer for pretrained models, `watersic`, at two bits per linear weight. Keys may
    have dots (`target.bits_per_weight=2`); values are YAML. The file holds a row of `messages`, as in a study.
    `megabytes` is the target as a size of the whole message, in 10^6 bytes.

    Raises
    ------
    ConfigError
        If both are given, the file cannot be read, there are two targets, or the row has a wrong key or value.
    """
    if quantizer is not None and config is not None:
        raise ConfigError("give --quantizer or --config, not both.")
    row: dict[str, Any] = (
        _read_row(config) if config is not None else {"quantizer": {"kind": quantizer or BEST_PRETRAINED}}
    )
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"--option {option!r}: write it as key=value.")
        _set_option(row["quantizer"], key, value)
    if megabytes is not None:
        if "target" in row["quantizer"]:
            raise ConfigError("give --target-megabytes or a target among the quantizer's keys, not both.")
        row["quantizer"]["target"] = {"message_megabits": 8 * megabytes}
    if quantizer is None and config is None:
        row["quantizer"].setdefault("target", {"bits_per_weight": _DEFAULT_BITS})
    return check_message(row, calibrated=calibrated)


def check_message(row: Mapping[str, Any], *, calibrated: bool = False) -> MessageSpec:
    """A row of `messages`, outside any study: checked, with placeholders for names that have no meaning there.

    Parameters
    ----------
    row
        Keys and values; `model` and the quantizer's `calibration` may be left out.
    calibrated
        Whether there is a text to calibrate on.

    Raises
    ------
    ConfigError
        If a key or a value is wrong, or the quantizer is one of Markov chains.
    """
    quantizer = dict(row.get("quantizer") or {"kind": BEST_PRETRAINED, "target": {"bits_per_weight": _DEFAULT_BITS}})
    kind = quantizer.get("kind")
    known = QUANTIZERS.get(str(kind))
    if known is not None and known.models == "chain":
        raise ConfigError(
            f"the quantizer '{kind}' is for Markov chains, which only a study makes. Choose another quantizer."
        )
    keys = {key.name: key for key in fields(cast(Any, known))} if known is not None else {}
    if "calibration" in keys and (calibrated or keys["calibration"].default is MISSING):
        quantizer.setdefault("calibration", _CALIBRATION_ROW)
    return check_row(MessageSpec, {"model": MODEL_ROW, **row, "quantizer": quantizer}, "the message")


def encode_checkpoint(
    source: str,
    spec: MessageSpec,
    out: Path,
    report: Path,
    *,
    gguf_file: str | None = None,
    texts: Texts | None = None,
    resume: bool = False,
) -> Record:
    """Write the message of a checkpoint, and a report with its size and, if there is a text to score, its loss.

    Parameters
    ----------
    source : str
        A folder of ours (with `card.json`), a Hugging Face folder, the folder of a GGUF file, or a hub name.
    spec : MessageSpec
        Its names of rows have no meaning here.
    out, report : path
    gguf_file : str, optional
        The GGUF file in the folder.
    texts : Texts, optional
    resume : bool
        Whether to keep calibration and rounded matrices in a folder next to the message (`.work`), and to go on from
        what such a folder has. It is removed at the end.

    Returns
    -------
    dict
        The report.

    Raises
    ------
    TokenboundsError
        If the checkpoint or a text cannot be read, a calibration is needed but no text is given, encoding fails, or
        the message or report would replace the other, or a file that is read.
    """
    texts = texts or Texts()
    _check_outputs(out, report, source, texts)
    with tempfile.TemporaryDirectory(prefix="tokenbounds-encode-") as scratch:
        directory, work = Path(source), None
        if not (directory / CARD_FILE).is_file():
            directory = Path(scratch)
            import_pretrained(PretrainedModel(kind="pretrained", name=source, gguf_file=gguf_file), directory)
        card, calibration = load_card(directory), None
        if resume:
            work = _work_folder(out, directory, spec, texts)
        if spec.quantizer.needs().calibration is not None:
            calibration = _calibrate(directory, source, gguf_file, texts, work or Path(scratch))
        encode_model(directory, spec, out, report, calibration=calibration, work=work)
        described = {**read_json(report), "source": source, "source_sha256": sha256_file(weights_file(directory))}
        if texts.scored is not None:
            text = read_text(texts.scored, source, gguf_file, card.vocabulary_size)
            described["scored"] = {"text": str(texts.scored), **score_text(out, directory, text)}
    write_json(report, described)
    if work is not None:
        shutil.rmtree(work)
    return described


def _work_folder(out: Path, directory: Path, spec: MessageSpec, texts: Texts) -> Path:
    """The folder where this encoding keeps what it has done; new, or of an earlier run of the very same encoding.

    Raises
    ------
    ConfigError
        If it is of another encoding.
    """
    work = out.with_name(f"{out.name}.work")
    text = None if texts.calibration is None else sha256_file(texts.calibration)
    wanted = {
        "weights_sha256": sha256_file(weights_file(directory)),
        "calibration_sha256": text,
        "message": json.loads(row_json(spec)),
        "version": __version__,
    }
    if (work / _WORK_FILE).is_file():
        if read_json(work / _WORK_FILE) != wanted:
            raise ConfigError(
                f"{work} was left by the encoding of another model, text or quantizer. "
                "Remove it, or leave out --resume."
            )
    else:
        write_json(work / _WORK_FILE, wanted)
    return work


def _check_outputs(out: Path, report: Path, source: str, texts: Texts) -> None:
    """Refuse to write two files under one name, or one over what is read."""
    if out.resolve() == report.resolve():
        raise ConfigError(f"the message and its report would both be written to {out}. Name them apart.")
    read = {path.resolve() for path in (texts.calibration, texts.scored) if path is not None}
    for path in (out, report):
        if path.resolve() in read or (path.exists() and path.resolve().parent == Path(source).resolve()):
            raise ConfigError(f"{path} is read, and would be written over. Choose another name.")
        if path.is_dir():
            raise ConfigError(f"{path} is a folder. Name the file to write.")


def _calibrate(directory: Path, source: str, gguf_file: str | None, texts: Texts, scratch: Path) -> Path:
    out = scratch / "calibration.safetensors"
    if out.is_file():
        LOGGER.info("the calibration is there already")
        return out
    if texts.calibration is None:
        raise ConfigError("this quantizer needs a calibration. Give a text with --calibrate.")
    card = load_card(directory)
    text = read_text(texts.calibration, source, gguf_file, card.vocabulary_size)
    context = min(512, card.context, text.tokens)
    tokens = max(min(_CALIBRATION_TOKENS, text.tokens) // context, 1) * context
    spec = CalibrationSpec(model=MODEL_ROW, corpus=_CALIBRATION_ROW, tokens=tokens, context=context)
    calibrate_model(directory, text, spec, out, corpus_sha256=sha256_file(texts.calibration))  # type: ignore[arg-type]
    return out


def _read_row(path: Path) -> dict[str, Any]:
    row = read_yaml(path)
    if not isinstance(row.get("quantizer"), dict):
        raise ConfigError(f"{path} holds no message: it needs the key 'quantizer' with its keys below it.")
    return row


def _set_option(row: dict[str, Any], key: str, value: str) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        row = row.setdefault(parent, {})
        if not isinstance(row, Mapping):
            raise ConfigError(f"--option {key}: '{parent}' already has a value of its own.")
    row[leaf] = parse_yaml(value, f"--option {key}")
