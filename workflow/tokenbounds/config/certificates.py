"""Rows of evaluations and certificates: how tokens are scored, and what is certified."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.config.base import STRICT, Checked, Coefficient, Fault, LabelName, PositiveInt, Probability, Reference

LARGEST_CENTRED_VOCABULARY = 1 << 12  # whole predictions are computed for cross-entropies, so it must be small

_LONGEST_REASON = 1000


@dataclass(frozen=True, config=STRICT)
class EvaluationSpec(Checked):
    """How tokens are scored: windows of `context` tokens that advance by `stride`, all of them or a sample.

    `visible_tokens` limits what the model sees before each token to that many tokens; null shows the whole window.
    `sample_tokens` is the approximate number of tokens whose blocks are drawn with replacement; null scores all.
    """

    context: Annotated[PositiveInt, Field(description="Tokens in a window.")] = 256
    stride: Annotated[
        PositiveInt | None,
        Field(
            description="Tokens that a window moves on by; `null`: by its whole length. A shorter stride shows "
            "every token more context and costs more."
        ),
    ] = None
    visible_tokens: Annotated[
        PositiveInt | None,
        Field(
            description="Show the model only this many tokens before each one that it predicts (the token before "
            "a document's first one counts), like a Markov chain of that order; `null`: all of its"
            " window. `context` then only says how many tokens form a block, and `stride` must be "
            "left out. It costs about this many times as much as scoring whole windows."
        ),
    ] = None
    sample_tokens: Annotated[
        PositiveInt | None, Field(description="Approximate number of tokens to sample and score; `null` scores all.")
    ] = None
    blocks_per_document: Annotated[
        PositiveInt | None,
        Field(
            description="For corpora by reference: of each drawn document score only so many blocks, drawn by `seed`; "
            "`null`: all of them. Tokens of one document are alike, so more documents with one short block each say "
            "more than few whole ones."
        ),
    ] = None
    seed: Annotated[
        int | None,
        Field(
            ge=0,
            description="Seed of the sample; `null` derives it from the hashes of the corpus's tokens, so that no one "
            "can have picked a draw that suits a model. The certificate says which.",
        ),
    ] = None
    shards: Annotated[PositiveInt, Field(description="Number of scoring jobs.")] = 2
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="Precision of the model's matrix products; losses are computed in float32."),
    ] = "float32"
    batch_tokens: Annotated[
        PositiveInt,
        Field(
            description="Most tokens in one forward pass; fewer where the activations of a wide model's block would "
            "take more than 512 MiB. This affects only speed and memory."
        ),
    ] = 16384
    placement: Annotated[
        Literal["auto", "whole", "dispatch", "blocks"],
        Field(
            description="Where the decoded model is: `whole` on one device; `dispatch` over all GPUs of the node; "
            "`blocks` on disk, one transformer block at a time in memory, through which all windows of the job pass "
            "before the next (hidden states in a scratch file of up to 8 GiB under TMPDIR); `auto` takes the first "
            "of these that fits, by measured sizes, and the log says which. Only dense transformers whose message "
            "needs no side information can be other than `whole`."
        ),
    ] = "auto"

    @property
    def seen_tokens(self) -> int:
        """Largest number of tokens that a model is shown at once."""
        return self.visible_tokens or self.context

    def faults(self) -> Iterator[Fault]:
        """Yield strides that leave tokens out, or that are given together with 'visible_tokens'."""
        if self.stride is not None and self.stride > self.context:
            yield Fault("stride", f"{self.stride} is longer than the context {self.context}.")
        if self.stride is not None and self.visible_tokens is not None:
            yield Fault(
                "stride",
                "'visible_tokens' already says what the model sees before each token. Leave one of the two out.",
            )
        if self.blocks_per_document is not None and self.sample_tokens is not None:
            yield Fault("blocks_per_document", "is another way to score a part than 'sample_tokens'. Leave one out.")


@dataclass(frozen=True, config=STRICT)
class BoundsSpec(Checked):
    """What a certificate states: total failure probability, metrics, bounds, subsets, and the grids it pays for."""

    delta: Annotated[
        Probability, Field(description="Probability with which any of the certificate's bounds may fail.")
    ] = 0.05
    sampling_share: Annotated[
        Probability, Field(description="Share of each bound's failure probability that pays for scoring only a sample.")
    ] = 0.2
    certificates_per_sample: Annotated[
        PositiveInt,
        Field(
            le=65536,
            description="How many certificates may share one sample of a corpus, this one included. Each pays for all "
            "of them, so that together they hold as well as one alone, and the best may be named. Nothing is paid "
            "where every token is scored. If it is left out with `prior: held_out`, it is 1: such a certificate is "
            "about one model that was named beforehand, whatever else is scored.",
        ),
    ] = 4
    top_k: Annotated[
        tuple[PositiveInt, ...],
        Field(
            max_length=64,
            description="For each k, bound the share of tokens that are not among the model's k most likely. If it is "
            "left out and the tokenizer has at most 100 tokens, as for antibodies, it is `[1, 3, 5, 10]`.",
        ),
    ] = (1, 10, 100)
    bounds: Annotated[
        tuple[Annotated[BoundKind, Field(strict=False)], ...],
        Field(
            min_length=1,
            max_length=16,
            description="Which bounds to compute. `telescoped`, `mixture` and `control_variates` (bits per token only) "
            "need a `chain`; those over `documents` and `sequences` (the plan's blocks) assume that these "
            "are i.i.d. and need every token scored. If it is left out with `prior: held_out`, it is `[betting]`: "
            "there, with no message to pay for, Azuma's rows would take half of delta and seldom be the smaller.",
        ),
    ] = (BoundKind.AZUMA, BoundKind.BETTING)
    alphas: Annotated[
        tuple[Probability, ...],
        Field(
            min_length=1, max_length=256, description="Grid of smoothing weights; the choice among them is paid for."
        ),
    ] = (
        *(0.0001, 0.0003, 0.001, 0.003),
        *(0.01, 0.03, 0.1, 0.2),
    )
    lambdas: Annotated[
        PositiveInt,
        Field(le=4096, description="Size of the grid of the bounds' own parameter λ; the choice is paid for."),
    ] = 32
    kappas: Annotated[
        tuple[Annotated[float, Field(ge=0, le=2)], ...],
        Field(
            min_length=1,
            max_length=32,
            description="Grid of factors κ: `betting` and `freedman` may subtract κ times the entropy of the model's "
            "own prediction from each token's loss before they bet on it; the choice is paid for. `[0]`, and scores "
            "without entropies, have no such centres (docs/bounds.md, “Predictable centres”).",
        ),
    ] = (0.0, 0.25, 0.5, 0.75, 1.0)
    centre_order: Annotated[
        int | None,
        Field(
            ge=1,
            le=8,
            description="Take the centres of a network's tokens not from the entropy of its prediction but from what "
            "online n-grams of this order, which have read the corpus up to there, expect it to lose (docs/bounds.md, "
            "“Cross-entropies as centres”). They know more, and the bound is tighter; each shard's scoring reads the "
            "whole corpus once, at some millions of tokens a second. For vocabularies of up to 4096 tokens; `null`: "
            "entropies.",
        ),
    ] = None
    link_alphas: Annotated[
        tuple[Probability, ...],
        Field(
            min_length=1,
            max_length=32,
            description="Grid of smoothing weights towards a cheaper model of the `chain`; the choice is paid for.",
        ),
    ] = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
    link_betas: Annotated[
        tuple[Coefficient, ...],
        Field(
            min_length=1,
            max_length=32,
            description="Grid of coefficients: how much of a cheaper model's loss a link of a `telescoped` row, or a "
            "`control_variates` row, subtracts before it is bounded (1: all of it); the choice is paid for.",
        ),
    ] = (0.25, 0.5, 0.75, 0.9, 1.0)
    subsets: Annotated[
        tuple[LabelName, ...],
        Field(
            max_length=64,
            description="Label columns of the corpus: the `labels` of its source, or `residue`, `chain`, "
            "`region`, `germline` and `imgt` of antibodies. All metrics are also bounded for the tokens of each "
            "label, under those of `bounds` that can be (`azuma`, `freedman`, `betting`, `documents`, "
            "`documents_betting`). Needs every token scored. What such rows say: docs/bounds.md, “Subsets of "
            "tokens”.",
        ),
    ] = ()

    faithfulness: Annotated[
        bool,
        Field(
            description="Also state how far the decoded model strays from the one that its message was made from: "
            "the divergence of its predictions, and how often its first choice is another (docs/bounds.md, "
            "“Faithfulness”). Both models are then scored, which costs twice the time."
        ),
    ] = False

    include_tolerance: Annotated[
        bool,
        Field(
            description="Let the value of each row of a network contain a tolerance for other machines' rounding: "
            "0.0001 bits in float32, 0.02 in bfloat16; for errors one token and 0.01 % of all in float32, 1 % in "
            "bfloat16. Who scores everything again (`verify --all`) then compares with no tolerance at all "
            "(docs/certificates.md, “Tolerances inside rows”). Rows of Markov chains and online references stay as "
            "they are."
        ),
    ] = False

    def faults(self) -> Iterator[Fault]:
        """Yield subsets that are named twice, or that no bound can be stated for."""
        if len(set(self.subsets)) != len(self.subsets):
            yield Fault("subsets", "a column appears twice. Name each once.")
        if self.centre_order and not any(bound.uses_centre or bound.uses_chain for bound in self.bounds):
            yield Fault("centre_order", "no bound has centres. Add 'betting' or 'freedman', or leave it out.")
        if self.centre_order and self.faithfulness:
            yield Fault("centre_order", "cannot be scored together with 'faithfulness'. Leave one of the two out.")
        if self.subsets and not any(bound.fits_subsets for bound in self.bounds):
            fitting = ", ".join(bound for bound in BoundKind if bound.fits_subsets)
            yield Fault("subsets", f"none of its bounds can be stated for subsets. Add one of {fitting}.")


def reason_fault(reason: str) -> str | None:
    """What is wrong with a stated reason why models are held out, in words; None if nothing is wrong."""
    if not reason.isprintable() or not 1 <= len(reason) <= _LONGEST_REASON:
        return f"must be one paragraph of 1 to {_LONGEST_REASON} printable characters."
    for date in re.findall(r"\d{4}-\d{2}-\d{2}", reason):
        with contextlib.suppress(ValueError):
            datetime.date.fromisoformat(date)
            return None
    return "names no date (2025-01-31). Say since when the model has been fixed, or when the text was written."


@dataclass(frozen=True, config=STRICT)
class CertificateSpec(Checked):
    """A certificate: which message, on which corpus, scored how, stating which bounds.

    `chain` names cheaper messages, cheapest first: the bounds `telescoped` and `mixture` smooth the certified one
    towards them, `control_variates` only compares their losses with its own. With `prior: held_out` nothing is paid for
    messages, which must not depend on the corpus; `held_out_because` says why they do not.
    """

    message: Annotated[str, Reference("messages"), Field(description="Message row that is certified.")]
    corpus: Annotated[str, Reference("corpora"), Field(description="Corpus row it is certified for.")]
    evaluation: Annotated[
        str, Reference("evaluations"), Field(description="Evaluation row that says how it is scored.")
    ] = "default"
    chain: Annotated[
        tuple[Annotated[str, Reference("messages")], ...],
        Field(
            max_length=5,
            description="Cheaper messages, cheapest first, scored by the same evaluation, whose bits are paid for as "
            "well. The bounds `telescoped` and `mixture` smooth the certified model towards the best of them; "
            "`control_variates` is about the certified model alone, and takes out of its loss what theirs explain.",
        ),
    ] = ()
    prior: Annotated[
        Literal["message", "held_out"],
        Field(
            description="`message`: the bits of every message are paid for. `held_out`: none are, because the "
            "models never saw this corpus; models of this study must share no document with it."
        ),
    ] = "message"
    held_out_because: Annotated[
        str | None,
        Field(
            description="With `prior: held_out`, and only then: why no model can depend on this corpus, in a sentence "
            "with a date (`The model was published on 2024-11-02, the text written after 2025-01-31.`). No file can "
            "prove it; the certificate and its page quote it."
        ),
    ] = None
    bounds: Annotated[BoundsSpec, Field(description="What the certificate states.")] = Field(default_factory=BoundsSpec)

    @property
    def messages(self) -> tuple[str, ...]:
        """Names of the messages that it rests on, the certified one last."""
        return (*self.chain, self.message)

    def faults(self) -> Iterator[Fault]:
        """Yield a chain that names a message twice, is unused or is missing; and a held-out prior without a reason."""
        if self.prior != "held_out" and self.held_out_because is not None:
            yield Fault("held_out_because", "is for prior: held_out alone. Remove it, or set the prior.")
        if self.prior == "held_out" and (fault := reason_fault(self.held_out_because or "")):
            yield Fault(
                "held_out_because",
                fault
                if self.held_out_because
                else "is missing. 'prior: held_out' rests on it alone: say, with a date (2025-01-31), why no model can "
                "depend on this corpus; if it may, use prior: message.",
            )
        if len(set(self.messages)) != len(self.messages):
            yield Fault(
                "chain", "a message appears twice. Name cheaper messages, each once, and not the certified one."
            )
        used = [bound for bound in self.bounds.bounds if bound.uses_chain]
        if used and not self.chain:
            yield Fault("", f"bound '{used[0]}' needs a 'chain' of cheaper messages. Name at least one.")
        if self.chain and not used:
            kinds = ", ".join(f"'{kind}'" for kind in BoundKind if kind.uses_chain)
            yield Fault("chain", f"no bound uses it. Add one of {kinds} to 'bounds.bounds', or drop it.")
