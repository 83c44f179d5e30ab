"""Scoring: the raw loss and rank of every planned token, from a transformers model or a Markov chain.

The loss is -log2 of the probability the predictor gives the true token, before any smoothing. The rank is the number
of tokens whose logit (or probability) is at least the true token's, itself included: the best possible rank is 1, and
every tie counts against the predictor.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tokenbounds.corpus.annotations import Annotations
from tokenbounds.corpus.manifest import MANIFEST_NAME
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import MessageError, ModelError, ScoreError
from tokenbounds.files import sha256_file
from tokenbounds.messages.container import read_message
from tokenbounds.models.online.card import OnlineCard
from tokenbounds.progress import Progress
from tokenbounds.scores.plan_file import Int64Array, Plan, column, expand_blocks, read_plan
from tokenbounds.scores.provenance import SCORE_SCHEMA, Provenance, known_fields
from tokenbounds.scores.scorer import (
    EVERYTHING,
    ChainPredictor,
    ChainScorer,
    Float32Array,
    GroupsScorer,
    Scorer,
    ScoringOptions,
)
from tokenbounds.scores.store import score_writer
from tokenbounds.scores.windows import Group, TokenReader, cut_groups, gather_windows, limit_windows
from tokenbounds.software import software_versions

if TYPE_CHECKING:
    from tokenbounds.scores.faithfulness import Original

_log = logging.getLogger(__name__)
_PACKAGES = ("torch", "transformers", "pyarrow", "numpy")
_BATCHES_PER_GROUP = 16
_PREDICTED_VALUES = 1 << 26  # probabilities that n-grams give to all tokens, held for a group where they are wanted


def make_scorer(
    predictor: Any,
    corpus: TokenReader,
    options: ScoringOptions,
    original: Original | None = None,
    centre_order: int = 0,
) -> Scorer:
    """Wrap a predictor for a corpus.

    Parameters
    ----------
    predictor
        A transformers causal language model, which is moved to the device and cast in place, or its trunk
        (`neural.Trunk`); a `ChainPredictor`; or the card of an online reference.
    original
        The model with whose predictions a transformer's are compared, if they are to be.
    centre_order
        Of the n-grams under whose predictions a transformer's cross-entropies are wanted; 0 if they are not.

    Raises
    ------
    ScoreError
        If the model cannot be scored, or compared.
    """
    scorer: Scorer
    if original is not None and isinstance(predictor, ChainPredictor | OnlineCard):
        raise ScoreError("only a network is compared with the model that it was made from. Drop the comparison.")
    if centre_order and (original is not None or isinstance(predictor, ChainPredictor | OnlineCard)):
        raise ScoreError(
            "centre_order is for a network whose predictions are compared with no other model's. Leave it out."
        )
    if isinstance(predictor, ChainPredictor):
        scorer = ChainScorer(predictor, corpus)
    elif isinstance(predictor, OnlineCard):
        from tokenbounds.scores.online import OnlineScorer  # loads numba, which checking certificates does not need

        scorer = OnlineScorer(predictor, corpus)
    elif original is not None:
        from tokenbounds.scores.faithfulness import ComparingScorer  # loads torch, as below

        scorer = ComparingScorer(predictor, corpus.start_id, options, original)
    elif centre_order:
        from tokenbounds.scores.cross_entropies import CrossEntropyScorer  # loads torch, as below

        scorer = CrossEntropyScorer(predictor, corpus, options, centre_order)
    else:
        from tokenbounds.scores.neural import NeuralScorer  # loads torch, which Markov chains do not need

        scorer = NeuralScorer(predictor, corpus.start_id, options)
    return scorer


def score_blocks(
    scorer: Scorer,
    corpus: TokenReader,
    rows: pa.Table,
    batch_tokens: int = 16384,
    visible_tokens: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Score plan rows and yield batches of a score file in plan order, in memory that does not grow with the plan.

    Parameters
    ----------
    rows
        Any rows of a plan, in corpus order.
    batch_tokens
        Windows are reordered by length within groups of 16 times as many tokens, or fewer with cross-entropies of a
        large vocabulary.
    visible_tokens
        The plan's: how many tokens the model sees before each one it predicts; None for its whole window.

    Raises
    ------
    ScoreError
        If the corpus holds a token that the model does not know, naming the document; if a loss is not finite (NaN or
        infinite logits), naming document and position; if a window is longer than the model's positions, a chain sees
        more than `visible_tokens`, or the corpus is not the one that was planned.
    """
    limited = visible_tokens is not None and scorer.order is None
    longest = int((column(rows, "length") + column(rows, "start" if limited else "context")).max(initial=0))
    if visible_tokens is not None:
        if scorer.order is not None and scorer.order > visible_tokens:
            seen = f"a Markov chain of order {scorer.order}" if scorer.order < EVERYTHING else "an online reference"
            raise ScoreError(
                f"{seen} sees more than the {visible_tokens} visible tokens of this evaluation. Show as many, or "
                "certify a chain of lower order."
            )
        longest = min(longest, visible_tokens)
    if scorer.longest_window is not None and longest > scorer.longest_window:
        raise ScoreError(
            f"the plan's windows have up to {longest} tokens, but the model has positions for only "
            f"{scorer.longest_window}. Choose a smaller context for this evaluation."
        )
    compared, weighted, crossed = bool(scorer.original_sha256), bool(scorer.alphas), bool(scorer.centre_order)
    fields = known_fields(scorer.entropies, compared, weighted, crossed)
    names = ("nll_bits", "rank", *(field.name for field in fields))
    schema = pa.schema([*SCORE_SCHEMA, *fields])
    batches = _BATCHES_PER_GROUP
    if crossed:
        batches = max(1, min(batches, _PREDICTED_VALUES // (scorer.vocabulary_size * batch_tokens)))
    waiting: deque[tuple[pa.Table, Group]] = deque()  # read, but not scored: a scorer may read many groups at once

    def groups() -> Iterator[Group]:
        for part in _cut(rows, batch_tokens * batches, visible_tokens if limited else None):
            group = gather_windows(part, corpus)
            _check_known(group, scorer.vocabulary_size, corpus)
            waiting.append((part, group))
            yield group

    score_all = scorer.score_groups if isinstance(scorer, GroupsScorer) else lambda each: map(scorer.score, each)
    for results in score_all(groups()):
        part, group = waiting.popleft()
        scored = dict(zip(names, results, strict=True))
        where = expand_blocks(part)
        _check_finite(scored["nll_bits"], where)
        values = {**where, "token": group.targets(), **scored}
        arrays = [pa.array(values[field.name]).cast(field.type) for field in schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def score_shard(
    predictor: Any,
    corpus: TokenReader,
    plan: Plan,
    shard: int,
    out: Path | str,
    *,
    message_sha256: str,
    annotations: Annotations | None = None,
    options: ScoringOptions | None = None,
    original: Original | None = None,
    centre_order: int = 0,
) -> int:
    """Score one shard of a plan and write it; `out` appears only if all went well.

    Parameters
    ----------
    predictor
        The decoded model: a transformers causal language model (moved to the device and cast in place) or a chain.
    corpus
        Reader of the corpus that was planned.
    message_sha256
        Of the message the predictor was decoded from.
    annotations
        Labels of the corpus's tokens, which are then added to the rows; see `docs/labels.md`.
    original
        The model with whose predictions the decoded model's are compared, if they are to be.
    centre_order
        See `make_scorer`.

    Returns
    -------
    int
        Rows written, one per scored token.

    Raises
    ------
    ScoreError
        See `make_scorer` and `score_blocks`; also if `corpus` and `plan` disagree in size.
    TokenboundsError
        If the file cannot be written.
    """
    options = options or ScoringOptions()
    if corpus.tokens != plan.tokens:
        raise ScoreError(f"the plan is for {plan.tokens} tokens, the corpus has {corpus.tokens}. Plan again.")
    rows = plan.shard(shard)
    scorer = make_scorer(predictor, corpus, options, original, centre_order)
    provenance = Provenance(
        message_sha256=message_sha256,
        manifest_sha256=plan.manifest_sha256,
        plan_sha256=plan.sha256,
        shard=shard,
        dtype=options.dtype,
        vocabulary_size=scorer.vocabulary_size,
        software={
            **software_versions(*_PACKAGES),
            "device": scorer.device_kind,
            "batch_tokens": str(options.batch_tokens),
        },
        alphas=scorer.alphas,
        labels=() if annotations is None else tuple(label for label in annotations.columns if label.is_scored),
        entropies=scorer.entropies,
        original_sha256=scorer.original_sha256,
        centre_order=scorer.centre_order,
    )
    progress = Progress(_log, int(column(rows, "length").sum()), "tokens", "scored")
    if isinstance(scorer, GroupsScorer):
        scorer.on_scored = progress.add
    with score_writer(out, provenance) as writer:
        for batch in score_blocks(scorer, corpus, rows, options.batch_tokens, plan.visible_tokens):
            if annotations is not None:
                # Each row gets what is known about its token; no model sees that.
                codes = annotations.at(column(batch, "document"), column(batch, "position"))
                labels = [pa.array(codes[name]) for name in provenance.schema.names[batch.num_columns :]]
                batch = pa.RecordBatch.from_arrays([*batch.columns, *labels], schema=provenance.schema)
            writer.write(batch)
            if not isinstance(scorer, GroupsScorer):
                progress.add(batch.num_rows)
    return progress.done


def score_message(
    message: Path | str,
    corpus_directory: Path | str,
    plan_path: Path | str,
    shard: int,
    out: Path | str,
    *,
    side_information: Iterable[Path | str] = (),
    options: ScoringOptions | None = None,
    original: Path | str | None = None,
    centre_order: int = 0,
) -> int:
    """Decode a message and score one shard with it; see `score_shard`.

    Nothing but the files named here is read: message, corpus, plan, `side_information` (see `decode_message`), and the
    `original`, a dense model (see `load_base`) with whose predictions the decoded model's are compared. With
    `centre_order` the scores hold cross-entropies under n-grams of this order (`scores.cross_entropies`).
    """
    plan = read_plan(plan_path)
    manifest = Path(corpus_directory) / MANIFEST_NAME
    if sha256_file(manifest) != plan.manifest_sha256:
        raise ScoreError(f"{plan_path} was made for another corpus than {manifest} describes. Plan again.")
    corpus = Corpus.open(corpus_directory, verify=True)
    annotated = corpus.manifest.annotations_file is not None
    options = options or ScoringOptions()
    with contextlib.ExitStack() as stack:
        predictor = stack.enter_context(decoded_predictor(Path(message), side_information, options))
        compared = None
        if original is not None:
            from tokenbounds.scores.placement import placed_original  # loads torch, as below

            compared = stack.enter_context(placed_original(original, options))
        return score_shard(
            predictor,
            corpus,
            plan,
            shard,
            out,
            message_sha256=sha256_file(message),
            annotations=Annotations.open(corpus_directory, corpus) if annotated else None,
            options=options,
            original=compared,
            centre_order=centre_order,
        )


@contextlib.contextmanager
def decoded_predictor(path: Path, side_information: Iterable[Path | str], options: ScoringOptions) -> Iterator[Any]:
    """What a message decodes to, where its size and the options put it, for `make_scorer`.

    Raises
    ------
    TokenboundsError
        If it does not decode; see `placement.placed_predictor`.
    """
    from tokenbounds.messages.counted import decode_counted  # loads numba, which reading scores does not need

    message = read_message(path)
    if options.placement in ("auto", "whole"):
        try:
            counted = decode_counted(message)
        except (MessageError, ModelError) as error:
            raise MessageError(f"{path}: {error}") from error
        if counted is not None:
            yield counted
            return
    from tokenbounds.scores.placement import placed_predictor  # loads torch, which chains and verification do not need

    with placed_predictor(message, path, side_information, options) as predictor:
        yield predictor


def _cut(rows: pa.Table, group_tokens: int, visible_tokens: int | None) -> Iterator[pa.Table]:
    """Windows to score together, of the plan or cut to what is visible, in memory that does not grow with the plan."""
    for part in cut_groups(rows, group_tokens):
        if visible_tokens is None:
            yield part
        else:
            yield from cut_groups(limit_windows(part, visible_tokens), group_tokens)


def _check_known(group: Group, vocabulary_size: int, corpus: TokenReader) -> None:
    """Refuse tokens beyond the model's vocabulary.

    A tokenizer may have more tokens than its model, such as a [PAD] that was added to it: that matters only where the
    corpus uses one.
    """
    unknown = group.tokens >= vocabulary_size
    if unknown.any():
        row = int(np.argmax(unknown))
        document = group.document[np.searchsorted(group.first, row, side="right") - 1]
        raise ScoreError(
            f"document {document} holds token {group.tokens[row]}, but the model predicts {vocabulary_size} tokens "
            f"(the tokenizer has {corpus.vocabulary_size}). Use the model's own tokenizer for this corpus, without "
            "added tokens in its text."
        )


def _check_finite(nll_bits: Float32Array, where: dict[str, Int64Array]) -> None:
    finite = np.isfinite(nll_bits)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ScoreError(
            f"the model's logits are not finite at document {where['document'][row]} position "
            f"{where['position'][row]} (loss {nll_bits[row]}). Try float32, or train the model again."
        )
