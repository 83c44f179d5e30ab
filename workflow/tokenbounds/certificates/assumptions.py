"""What a certificate assumes, in plain sentences: everything else in it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenbounds.bounds.kinds import BoundKind
from tokenbounds.certificates.faithfulness import Faithfulness
from tokenbounds.certificates.file_records import BaseRecord, PlanRecord, PriorRecord, TrainingRecord
from tokenbounds.certificates.sentence import confidence_percent
from tokenbounds.config import BoundsSpec
from tokenbounds.config.quantizers import REFINING
from tokenbounds.corpus.reference import ReferenceEntry
from tokenbounds.messages.container import Header
from tokenbounds.models.card import BASE_FAMILY

_COMPARED = (
    "by the SHA-256 that their tables of documents state for each one's text, and for its tokens if the tokenizer is "
    "the same"
)


def state_assumptions(
    header: Header,
    tokenizer: dict[str, Any],
    plan: PlanRecord,
    dtype: str,
    spec: BoundsSpec,
    prior: PriorRecord,
    *,
    derived_seed: bool,
) -> list[str]:
    """List the assumptions of a certificate.

    Parameters
    ----------
    header
        The message's header.
    tokenizer
        The manifest's account of the tokenizer.
    plan
        The certificate's account of the scoring plan.
    dtype
        Arithmetic the scores were computed in.
    spec
        What the certificate states.
    prior
        The certificate's account of its prior.
    derived_seed
        Whether the plan's seed is the one that follows from the corpus's tokens.
    """
    sentences = _sequence_assumptions(tokenizer)
    sentences += _held_out_assumptions(prior) if prior.held_out else _prior_assumptions(header)
    sentences.append(_arithmetic_assumption(header, dtype))
    if plan.visible_tokens is not None:
        sentences.append(
            f"Before each token, the predictor sees at most the last {plan.visible_tokens} tokens of its document "
            "(the start token counts); everything else is hidden from it."
        )
        if header.get("model", {}).get("family") not in ("markov", "online"):
            sentences.append(
                "Windows are scored together by their content, so that rounding can make a loss depend on later tokens "
                "in its last digits (in bfloat16 by up to 0.006 bits). That is neglected."
            )
    if plan.mode == "sampled":
        how = (
            "follows from the hashes of the corpus's tokens; its draws are as good as random"
            if derived_seed
            else "was fixed without looking at the corpus, the model or any score, and was not changed after scores "
            "were seen"
        )
        shared = (
            f"At most {spec.certificates_per_sample} certificates share it, including any that were thrown away: delta "
            "pays for that many."
        )
        if prior.kind == "held_out" and spec.certificates_per_sample == 1:
            shared = "The model was named before any score on it was seen: delta pays for this certificate alone."
        sentences.append(
            f"The sampling seed ({plan.seed}) {how}. Messages scored on this sample were made without regard to it. "
            f"{shared}"
        )
    sentences.append(
        "The bounds, metrics, grids and delta, and the context windows and arithmetic of scoring, were chosen before "
        "the scores were seen. All rows of this certificate hold together with probability at least "
        f"{confidence_percent(spec.delta)} %."
    )
    return sentences


def state_reference_assumptions(reference: ReferenceEntry | None, drawn: int, plan: PlanRecord) -> list[str]:
    """What a certificate about a corpus by reference assumes beyond the others; nothing for other corpora."""
    if reference is None:
        return []
    partly = []
    if plan.blocks_per_document is not None:
        partly = [
            f"Of each drawn document at most {plan.blocks_per_document} of its blocks were scored, drawn by seed "
            f"{plan.seed}, which depends on no score; what they give is multiplied by the document's number of blocks "
            "over theirs."
        ]
    return [
        f"The corpus is all {reference.rows:,} documents of the pinned files, each cut after {reference.max_tokens:,} "
        "tokens, in the order of the list. The files were pinned, and the number of documents to draw, the cut and the "
        "tokenizer chosen, without looking at any score. That the files hold as many documents as the list says is "
        "seen only where a document of them was drawn.",
        f"{drawn:,} documents were drawn, uniformly and with replacement, by seed {reference.seed}; that the text of a "
        "drawn document is the file's is shown by tokenizing it again. Messages were made without regard to the draw. "
        "The number of tokens is a lower confidence bound, which has a twentieth of delta.",
        *partly,
    ]


def _sequence_assumptions(tokenizer: dict[str, Any]) -> list[str]:
    return [
        "The corpus is one sequence of tokens, documents in ascending order. No independence is assumed: the bounded "
        "quantity is the average, over the corpus's tokens, of the expected loss of each token given everything "
        "before it. It is about the process that produced this corpus, not about other data.",
        "The number of tokens and the lengths of the documents are given, and not predicted: expectations are those of "
        "a process that knows them. For this to be the process that wrote the text, the corpus and its size must have "
        "been chosen before the scores, and not by what the text turned out to be. Rows 'betting', 'freedman', "
        "'telescoped', 'mixture' and 'control_variates' on bits per token do not need that: they also hold for a "
        "corpus that its collector ends at will, having seen the text so far.",
        f"The tokenizer ({tokenizer.get('identity', 'unknown')}) was fixed before the corpus and independently of it.",
    ]


def _prior_assumptions(header: Header) -> list[str]:
    card = header.get("model", {})
    family = card.get("family", "unknown")
    has_base = family == BASE_FAMILY
    architecture = "and the registry of architectures" + ("" if has_base else f", here '{family}'")
    aside = ", its base aside, " if has_base else " "
    quantizer = header.get("quantizer")
    refines = isinstance(quantizer, dict) and any(quantizer.get("kind") == kind for kind in REFINING)
    coarse = " and in the coarse message that it refines, whose bits are paid for as well" if refines else ""
    if family == "online":
        sentences = [
            "The predictor starts empty and learns from each token after predicting it: it was fixed before the "
            "corpus, with the decoder, and its message only names it. What is certified is the running predictor on "
            "this corpus, in the corpus's order; it is not a model that could be taken from there to other text.",
        ]
    else:
        sentences = []
    sentences += [
        f"The decoder (message format, entropy coders, quantizers {architecture}) was fixed before the corpus, or "
        "independently of it. (A choice among N versions with the corpus in view would cost log2 N more bits.) "
        f"Everything else the model depends on{aside}is in the message{coarse}.",
        "Messages are self-delimiting, so that 2^(−bits) summed over all messages is at most one (Kraft): this is "
        "the prior, and it was fixed with the decoder. Any message may be chosen with the corpus in view.",
    ]
    has_values = family not in ("markov", "online") and not has_base
    kind = card.get("parameterization", {}).get("kind", "dense") if has_values else None
    if kind not in (None, "dense"):
        sentences.append(
            f"The fixed part of the '{kind}' parameterization is generated by the decoder from the seed in the "
            "message; nothing outside the message was fitted to any data."
        )
    return sentences


def state_base_assumptions(bases: Sequence[BaseRecord], prior: PriorRecord) -> list[str]:
    """What is assumed about the bases of messages, which are not paid for.

    Parameters
    ----------
    bases
        Their records: name and hash.
    prior
        The certificate's account of its prior; held-out ones assume as much of every model already.
    """
    if prior.held_out:
        return []
    trained = ""
    if prior.trained_on:
        trained = (
            f" Bases trained in this study were trained on {_corpora(prior.trained_on)}; no document of this corpus is "
            f"in those, {_COMPARED}."
        )
    return [
        f"Base fixed before and independently of the corpus: the base model '{base.name}' (hash "
        f"{base.sha256[:16]}… of its card and values) does not depend on this corpus, neither by training nor by "
        "choice. It is part of the decoder: only what the messages add to it is paid "
        f"for.{trained}"
        for base in bases
    ]


def _arithmetic_assumption(header: Header, dtype: str) -> str:
    if header.get("model", {}).get("family") == "markov":
        return "The certified predictor is the decoded Markov chain as evaluated in floating-point arithmetic."
    if header.get("model", {}).get("family") == "online":
        return "The online reference predicts in integer arithmetic, so every replay gives the same losses."
    return (
        f"The certified predictor is the decoded model as it runs in {dtype} arithmetic on the machine that scored it. "
        "Another machine rounds differently; `tokenbounds verify --rescore` measures by how much."
    )


def state_chain_assumptions(
    links: Sequence[tuple[Header, str, str]], bounds: Sequence[BoundKind], held_out: bool
) -> list[str]:
    """What the rows of a chain assume in addition to the others.

    Parameters
    ----------
    links
        Header, name and arithmetic of every cheaper message, cheapest first; none without a chain.
    bounds
        The certificate's bounds.
    held_out
        Whether messages are not paid for.
    """
    if not links:
        return []
    names = ", ".join(f"'{name}'" for _, name, _ in links)
    chosen = "." if held_out else "; the messages themselves may have been chosen with the corpus in view."
    sentences = []
    if any(bound.mixes for bound in bounds):
        sentences.append(
            "Rows 'telescoped' and 'mixture' are about the certified model mixed with cheaper ones of the chain "
            f"({names}), with the weights and models that the row lists."
        )
    if BoundKind.CONTROL_VARIATES in bounds:
        sentences.append(
            "The row 'control_variates' is about the certified model by itself. Losses of other models of the chain "
            f"({names}) are subtracted in part from its own, and bounded by themselves; each of these models "
            + ("never saw the corpus." if held_out else "is decoded from messages that are paid for.")
        )
    sentences.append(
        f"The number of messages in the chain and their order were chosen before the scores were seen{chosen}"
    )
    return sentences + [f"For '{name}': {_arithmetic_assumption(header, dtype)}" for header, name, dtype in links]


def state_unit_assumptions(bounds: Sequence[BoundKind]) -> list[str]:
    """What rows over documents or sequences assume: much more than the others.

    Parameters
    ----------
    bounds
        The certificate's bounds.
    """
    units = {bound.unit for bound in bounds}
    sentences = {
        "documents": "Rows 'documents' and 'documents_betting' assume that documents with at least one token are "
        "independent draws from one distribution; they bound the expected mean loss per token of a new document.",
        "sequences": "Rows 'sequences' and 'sequences_betting' assume that the scored blocks, each with the token "
        "before it, are independent draws from one distribution, although neighbours come from one document; they "
        "bound the expected mean loss per token of a new block.",
    }
    return [sentence for unit, sentence in sentences.items() if unit in units]


def state_centre_assumptions(centre_order: int | None) -> list[str]:
    """What centres that are not made of entropies rest on.

    Parameters
    ----------
    centre_order
        Of the n-grams that expect the model's losses; None if centres are made of entropies.
    """
    if centre_order is None:
        return []
    return [
        "Centres are multiples of what the certified model is expected to lose by online n-grams of order "
        f"{centre_order}, which learn along the corpus in its order: a function of the tokens before each one. The "
        "n-grams and their order were fixed before the scores were seen. They are no part of the certified model."
    ]


def state_subset_assumptions(columns: Sequence[str], bounds: Sequence[BoundKind]) -> list[str]:
    """What rows over subsets of tokens assume, and what they are about.

    Parameters
    ----------
    columns
        Columns of labels; none without subsets.
    bounds
        The certificate's bounds.
    """
    if not columns:
        return []
    names = ", ".join(f"'{column}'" for column in columns)
    sentences = [
        f"Rows over subsets by {names} are given the labels: what they bound is the average, over the subset's tokens, "
        "of the expected loss of each token given everything before it and the labels of all tokens of the corpus. "
        "The model does not see the labels; the process whose expectation it is knows them, and with them how long the "
        "corpus is, so that none of these rows holds for one that its collector ends at will. Labels were assigned "
        "without looking at the model or its scores. The more they reveal about the tokens, the less such a row says "
        "beyond what was measured."
    ]
    if any(bound.unit == "documents" for bound in bounds):
        sentences.append(
            "Rows 'documents' and 'documents_betting' of a subset need no such source: they take documents, each with "
            "its labels, as independent draws from one distribution, and bound the expected mean loss over the subset "
            "of a new document that has tokens in it."
        )
    return sentences


def state_head_assumptions(alphas: Sequence[float]) -> list[str]:
    """What rows with a smoothing weight for each token are about.

    Parameters
    ----------
    alphas
        The weights that the message's head chooses from; none without a head.
    """
    if not alphas:
        return []
    return [
        f"Rows that list 'alphas' are about the model with a smoothing weight for each token, one of {len(alphas)} "
        f"from {min(alphas):g} to {max(alphas):g}, that the head in the message reads off the model's hidden state "
        "before the token. Rows over chains, documents, sequences and subsets smooth all tokens alike."
    ]


def state_faithfulness_assumptions(faithfulness: Faithfulness | None) -> list[str]:
    """What rows about faithfulness are about.

    Parameters
    ----------
    faithfulness
        What the certificate states; None if nothing.
    """
    if faithfulness is None:
        return []
    sentences = [
        f"The rows about faithfulness compare the decoded model with '{faithfulness.original.name}', the model whose "
        f"card and values have the hash {faithfulness.original.sha256[:16]}…, whatever that was trained on. The "
        f"decoded model's predictions are mixed with a uniform one of weight {faithfulness.smoothing:g}. Averages "
        "over tokens are over what precedes each token of this corpus, and say nothing about other text."
    ]
    if any(row.over == "documents" for row in faithfulness.rows):
        sentences.append(
            "Those over documents take the documents as independent draws from one distribution, on which neither "
            "model depends."
        )
    return sentences


def _held_out_assumptions(prior: PriorRecord) -> list[str]:
    """Why nothing is paid for the model."""
    if prior.trained_on:
        because = (
            f"either trained in this study on {_corpora(prior.trained_on)} or published before this corpus was drawn. "
            f"No document of this corpus is in those, {_COMPARED} "
            "(near copies and quotations are not noticed), and no model was trained on anything else that depends on "
            "this corpus"
        )
    else:
        because = "published before this corpus was drawn, or at least trained on nothing that depends on it"
    return [
        "The model is held out (C = 0: its message's bits are not paid for): every model of this certificate was "
        f"{because}. The certificate is valid only if this statement is true. The reason given for it: "
        f"“{prior.because}”",
        "The model, its quantization included, was not chosen by its scores on this corpus. Of several held-out "
        "certificates, picking the best is not covered by delta.",
    ]


def _corpora(trained_on: Sequence[TrainingRecord]) -> str:
    return ", ".join(f"'{record.corpus}' (manifest {record.sha256[:12]}…)" for record in trained_on)
