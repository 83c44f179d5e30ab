"""The public functions: the steps from a text and a checkpoint to a certificate, on paths and arrays.

    import tokenbounds as tb

    tb.tokenize(["notes.txt"], "corpus")
    tb.encode("checkpoint", "model.tbm", quantizer={"kind": "uniform", "step_ratio": 0.3})
    scored = tb.score("model.tbm", "corpus", "scores")
    tb.certify("model.tbm", "corpus", scored, "certificate.json")
    tb.verify("certificate.json", rescore=20)

The workflow and the command line call the same functions of the library. Heavy packages (torch, transformers, numba)
are imported by the function that needs them, so that `import tokenbounds` is quick.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from transformers import PreTrainedModel

    from tokenbounds.certificates.checks import Check
    from tokenbounds.certificates.rows.tokens import Statement
    from tokenbounds.certificates.schema import Certificate
    from tokenbounds.config import BoundsSpec, EvaluationSpec, MessageSpec
    from tokenbounds.models.markov.chain import MarkovChain
    from tokenbounds.models.online.card import OnlineCard

PathLike = str | os.PathLike[str]
Row = TypeVar("Row")

__all__ = ["Scored", "bound", "certify", "decode", "encode", "score", "tokenize", "verify"]


@dataclass(frozen=True)
class Scored:
    """Files that scoring wrote.

    Attributes
    ----------
    plan
        Which tokens were scored, in which windows: Parquet, one row per block.
    scores
        Loss and rank of every scored token: Parquet, one row per token; one file per shard of the plan.
    """

    plan: Path
    scores: tuple[Path, ...]


def tokenize(paths: Sequence[PathLike], folder: PathLike, *, tokenizer: PathLike | None = None) -> Path:
    """Tokenize text files into a corpus, one document per file.

    Parameters
    ----------
    paths
        UTF-8 text files, folders (searched for `*.txt`) or glob patterns.
    folder
        Where the corpus goes: token shards, a table of documents, `manifest.json`. An earlier corpus there is replaced.
    tokenizer
        A transformers tokenizer: a folder or a hub name. By default tokens are bytes. It must have been fixed
        independently of the texts, not trained on them.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    CorpusError
        If a file cannot be read, there is no text, or the tokenizer cannot be loaded.
    """
    from tokenbounds.config import ByteTokenizer, CorpusSpec, TextSource, TransformersTokenizer
    from tokenbounds.corpus.shards import tokenize_corpus

    out = Path(folder)
    row = (
        ByteTokenizer(kind="bytes")
        if tokenizer is None
        else TransformersTokenizer(kind="transformers", name=os.fspath(tokenizer))
    )
    source = TextSource(kind="text", paths=tuple(os.fspath(path) for path in paths))
    tokenize_corpus(CorpusSpec(source=source, tokenizer=row), out.name, out)
    return out


def encode(
    checkpoint: PathLike,
    message: PathLike,
    *,
    quantizer: Mapping[str, Any] | MessageSpec | None = None,
    calibrate: PathLike | None = None,
    text: PathLike | None = None,
    gguf_file: str | None = None,
    report: PathLike | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Compress a checkpoint into a message, the file whose size a certificate pays for.

    Parameters
    ----------
    checkpoint
        A Hugging Face folder, the folder of a GGUF file, a hub name, or a folder of a study with `card.json`.
    message
        The file to write (`.tbm`).
    quantizer
        A quantizer's keys as in a study, `{"kind": "uniform", "step_ratio": 0.3}`, or a `MessageSpec` of
        `tokenbounds.config`. By default `watersic` at two bits per weight, which needs a text to calibrate on.
    calibrate
        A text file to calibrate on, for quantizers that look at what the model does with text.
    text
        A text file to score before and after; the report then has both losses, and how far predictions stray.
    gguf_file
        The GGUF file in the checkpoint's folder.
    report
        Where the report goes; by default next to the message, as `.json`.
    resume
        Keep finished parts in a folder next to the message, and go on from those of a run that was interrupted.

    Returns
    -------
    dict
        The report: `size_bits` and its `breakdown` by part in bits, `bits_per_parameter`, `sha256`, and with `text`
        under `scored` the mean losses in bits per token.

    Raises
    ------
    ConfigError
        If the quantizer's row is not valid, or a calibration is needed and there is no text for it.
    ModelError
        If the checkpoint cannot be read.
    MessageError
        If what decodes differs from what was encoded.
    """
    from tokenbounds.compression.checkpoint import Texts, check_message, encode_checkpoint
    from tokenbounds.config import MessageSpec

    out = Path(message)
    if not isinstance(quantizer, MessageSpec):
        quantizer = check_message({"quantizer": quantizer}, calibrated=calibrate is not None)
    texts = Texts(calibration=_path(calibrate), scored=_path(text))
    report_path = _path(report) or out.with_suffix(".json")
    options: dict[str, Any] = {"gguf_file": gguf_file, "texts": texts, "resume": resume}
    return encode_checkpoint(os.fspath(checkpoint), quantizer, out, report_path, **options)


def decode(
    message: PathLike,
    folder: PathLike | None = None,
    *,
    gguf: PathLike | None = None,
    side_information: Sequence[PathLike] = (),
) -> PreTrainedModel | MarkovChain | OnlineCard:
    """Decode a message into the model that is scored. Nothing in the file is executed.

    Parameters
    ----------
    message
        The message (`.tbm`).
    folder
        If given, the model is also written there, as `AutoModelForCausalLM.from_pretrained` loads it.
    gguf
        If given, the model is also written to this file, as GGUF in float32, without a tokenizer.
    side_information
        Where to look for what the message names by hash: folders of base models, files of coarse messages.

    Returns
    -------
    transformers.PreTrainedModel, MarkovChain or OnlineCard
        On the CPU, float32, in evaluation mode.

    Raises
    ------
    MessageError
        If the message is damaged, or what it names is missing or does not match. Nothing else, whatever the bytes.
    ModelError
        If the model is to be written as GGUF, which has no form for it.
    """
    from transformers import PreTrainedModel

    from tokenbounds.errors import MessageError
    from tokenbounds.messages.decode import decode_message, export_huggingface
    from tokenbounds.models.build import to_dense
    from tokenbounds.models.pretrained.gguf_export import write_gguf

    places = [Path(place) for place in side_information]
    model: PreTrainedModel | MarkovChain | OnlineCard
    if folder is not None:
        model = export_huggingface(Path(message), Path(folder), places)
    else:
        model = decode_message(Path(message), places)
    if gguf is not None:
        if not isinstance(model, PreTrainedModel):
            raise MessageError("only transformers can be written as GGUF, not Markov chains and the like.")
        write_gguf(to_dense(model), Path(gguf))
    return model


def score(
    message: PathLike,
    corpus: PathLike,
    folder: PathLike,
    *,
    evaluation: Mapping[str, Any] | EvaluationSpec | None = None,
    side_information: Sequence[PathLike] = (),
    original: PathLike | None = None,
) -> Scored:
    """Score a corpus with the model that a message decodes to.

    Parameters
    ----------
    message
        The message (`.tbm`).
    corpus
        The folder of a tokenized corpus.
    folder
        Where `plan.parquet` and a `shard-*.parquet` for each shard go.
    evaluation
        A row of `evaluations` as in a study, such as `{"context": 1024, "sample_tokens": 1_000_000}`; by default every
        token, in windows of 256.
    side_information
        Where to look for what the message names by hash.
    original
        The dense model that the message was made from (a checkpoint's folder or a GGUF file), with whose predictions
        the decoded one's are compared.

    Returns
    -------
    Scored
        The plan's and the scores' files. Scores have one row per token: `document, position, token, nll_bits, rank`.

    Raises
    ------
    ConfigError
        If the evaluation is not a valid row.
    CorpusError
        If the corpus cannot be read.
    ScoreError
        If the model's vocabulary is smaller than the corpus's, a window is longer than the model's, or a loss is not
        finite.
    MessageError
        If the message does not decode.
    """
    from tokenbounds.config import EvaluationSpec
    from tokenbounds.scores.plan import plan_corpus
    from tokenbounds.scores.scorer import ScoringOptions
    from tokenbounds.scores.scoring import score_message

    row = _row(EvaluationSpec, evaluation, "evaluation")
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    plan = out / "plan.parquet"
    plan_corpus(Path(corpus), row, plan)
    scores = tuple(out / f"shard-{shard:05d}.parquet" for shard in range(row.shards))
    options = ScoringOptions(dtype=row.dtype, batch_tokens=row.batch_tokens, placement=row.placement)
    for shard, path in enumerate(scores):
        places = map(Path, side_information)
        score_message(
            *(Path(message), Path(corpus), plan, shard, path),
            side_information=places,
            options=options,
            original=None if original is None else Path(original),
        )
    return Scored(plan, scores)


def bound(
    losses: ArrayLike | PathLike | Sequence[PathLike],
    message_bits: int,
    vocabulary_size: int,
    *,
    ranks: ArrayLike | str | None = None,
    column: str = "nll_bits",
    nats: bool = False,
    bounds: Mapping[str, Any] | BoundsSpec | None = None,
) -> Statement:
    """Bound a model's expected loss, and its top-k errors, from token losses that you computed yourself.

    Nothing ties the losses to a message or a corpus here: you vouch for the size of a file that decodes to the model,
    and for every token of the corpus having been scored once, in order.

    Parameters
    ----------
    losses
        -log2 of the probability that the model gives each token [m], before any smoothing; or Parquet files with a
        column of them, one row per token.
    message_bits
        C, bits of the message that decodes to the model; 0 for a model that never saw the corpus.
    vocabulary_size
        V, the number of tokens that the model predicts.
    ranks
        Rank of the true token [m], from 1, or the name of its column: needed for top-k errors.
    column
        Name of the column of losses, if they are in files.
    nats
        Whether losses are -ln rather than -log2.
    bounds
        Failure probability, bounds and the grids that are paid for, as under `bounds` in a study. By default `azuma`,
        `freedman` and `betting`, which all hold together with probability 0.95.

    Returns
    -------
    Statement
        `rows`, one per metric and bound, each with `value`, `empirical` and `gap` (in bits per token, or shares of
        tokens); the `ledger` of what was paid; `notes`.

    Raises
    ------
    ConfigError
        If `bounds` is not a valid row.
    ScoreError
        If a file cannot be read, or a loss is negative or not a number.
    CertificateError
        If a bound needs more than losses and ranks.
    """
    import numpy as np

    from tokenbounds.bounds.kinds import BoundKind
    from tokenbounds.certificates.external import ArrayScores, ExternalScores, bound_scores
    from tokenbounds.config import BoundsSpec

    if not isinstance(bounds, BoundsSpec):
        bounds = {"bounds": [kind for kind in BoundKind if kind.is_single], **(bounds or {})}
    spec = _row(BoundsSpec, bounds, "bounds")
    files = [losses] if isinstance(losses, str | os.PathLike) else losses
    if isinstance(files, list | tuple) and files and all(isinstance(each, str | os.PathLike) for each in files):
        assert ranks is None or isinstance(ranks, str)
        columns = ExternalScores(tuple(map(Path, files)), column, ranks, nats)
        return bound_scores(columns, message_bits, vocabulary_size, spec)
    nll_bits = np.asarray(files, dtype=np.float64) / (math.log(2.0) if nats else 1.0)
    stream = ArrayScores(nll_bits, None if ranks is None else np.asarray(ranks, dtype=np.int64))
    return bound_scores(stream, message_bits, vocabulary_size, spec)


def certify(
    message: PathLike,
    corpus: PathLike,
    scored: Scored,
    out: PathLike,
    *,
    bounds: Mapping[str, Any] | BoundsSpec | None = None,
    chain: Sequence[tuple[PathLike, Scored]] = (),
    held_out_because: str | None = None,
    trained_on: Sequence[PathLike] = (),
    side_information: Sequence[PathLike] = (),
    original: PathLike | None = None,
) -> Certificate:
    """Certify how well the model that a message decodes to predicts a corpus, and write the certificate.

    Parameters
    ----------
    message
        The message (`.tbm`).
    corpus
        The folder of the tokenized corpus.
    scored
        The plan and the scores, as `score` returned them.
    out
        The certificate's file (`.json`). Paths inside are relative to its folder, so that all can be moved together.
    bounds
        Failure probability, metrics, bounds and grids, as under `bounds` in a study: `{"delta": 0.01}`. As there, a
        held-out certificate that names no `bounds` states betting alone.
    chain
        Cheaper messages, cheapest first, each with its scores by the same plan.
    held_out_because
        Why the model cannot depend on the corpus, in a sentence with a date; nothing is paid for its message then. No
        file can prove that: the certificate quotes it as its assumption. None if the message is paid for.
    trained_on
        Folders of the corpora that a held-out model, or a fine-tune's base, was trained on.
    side_information
        Where to look for what messages name by hash.
    original
        The model that the message was scored beside, for `bounds={"faithfulness": True}`.

    Returns
    -------
    Certificate
        As written; its `rows` hold the bounds.

    Raises
    ------
    ConfigError
        If `bounds` is not a valid row.
    CertificateError
        If a file is missing, damaged, or was made from something else, or an assumption does not hold for the data.
        Nothing is written then.
    """
    from tokenbounds.certificates.certify import certify_bound
    from tokenbounds.certificates.evidence import CertificateInputs, LinkInputs
    from tokenbounds.config import BoundsSpec

    corpora = tuple(map(Path, trained_on))
    inputs = CertificateInputs(
        corpus=Path(corpus),
        plan=scored.plan,
        links=tuple(LinkInputs(Path(link), files.scores) for link, files in (*chain, (message, scored))),
        held_out=None if held_out_because is None else corpora,
        side_information=tuple(map(Path, side_information)),
        base_corpora=corpora if held_out_because is None else (),
        held_out_because=held_out_because or "",
        original=None if original is None else Path(original),
    )
    if held_out_because is not None and not isinstance(bounds, BoundsSpec):
        bounds = {"bounds": ["betting"], "certificates_per_sample": 1, **(bounds or {})}
    name, spec = Path(out).stem, _row(BoundsSpec, bounds, "bounds")
    return certify_bound(name, name, inputs, spec, Path(out), model=Path(message).stem)


def verify(
    certificate: PathLike,
    *,
    rescore: int | Literal["all"] | None = None,
    seed: int | None = None,
    bases: Sequence[PathLike] = (),
    root: PathLike | None = None,
) -> list[Check]:
    """Recompute a certificate from its files, trusting nothing that it says.

    Parameters
    ----------
    certificate
        The certificate's file. What it names is looked for relative to its folder.
    rescore
        How many blocks of tokens to draw and score again with the decoded message, "all", or 0 for none. By default 20
        where that takes a few seconds. Without this, only the numbers are shown to follow from the score files; with
        it, the score files are shown to follow from the message.
    seed
        Chooses the blocks; by default no one can know which.
    bases
        Where base models are, if not where the certificate says.
    root
        The folder that holds everything that the certificate may name; nothing outside it is opened. By default it is
        the results folder, that is the one above the certificate's.

    Returns
    -------
    list of Check
        What was checked: `name`, `file` and `detail` of each. For the one called "not scored again", `made` is false.

    Raises
    ------
    CertificateError
        At the first check that fails; the message names the file.
    """
    from tokenbounds.certificates.verify import ALL_BLOCKS, verify_certificate

    blocks = ALL_BLOCKS if rescore == "all" else rescore
    places = [Path(place) for place in bases]
    return verify_certificate(Path(certificate), rescore=blocks, seed=seed, bases=places, root=_path(root))


def _row(kind: type[Row], value: Mapping[str, Any] | Row | None, name: str) -> Row:
    """A row of a study from its keys, checked like one that is read from a file."""
    from tokenbounds.config import check_row

    return value if isinstance(value, kind) else check_row(kind, cast("Mapping[str, Any]", value or {}), name)


def _path(value: PathLike | None) -> Path | None:
    return None if value is None else Path(value)
