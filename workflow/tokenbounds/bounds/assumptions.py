"""What a certificate takes for granted, in plain sentences: everything else in it is computed."""

from __future__ import annotations

from typing import Any

from tokenbounds.bounds.statement import confidence_percent


def state_assumptions(
    header: dict[str, Any], tokenizer: dict[str, Any], plan: dict[str, Any], dtype: str, delta: float
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
    delta
        Total failure probability of the certificate.
    """
    sentences = [*_sequence_assumptions(tokenizer), *_prior_assumptions(header), _arithmetic_assumption(header, dtype)]
    if plan["mode"] == "sampled":
        sentences.append(
            f"The sampling seed ({plan['seed']}) was fixed without looking at the corpus, the model or any score, and "
            "was not changed after scores were seen. Choosing among messages scored on a sample is not covered by "
            "delta: every sample can err on its own."
        )
    sentences.append(
        "The bounds, metrics, grids and delta, and the context windows of the scoring plan, were chosen before the "
        "scores were seen. All rows of this certificate hold together with probability at least "
        f"{confidence_percent(delta)} %."
    )
    return sentences


def _sequence_assumptions(tokenizer: dict[str, Any]) -> list[str]:
    return [
        "The corpus is one sequence of tokens, documents in ascending order. No independence is assumed: the bounded "
        "quantity is the average, over the corpus's tokens, of the expected loss of each token given everything "
        "before it. It speaks of the process that produced this corpus, not of other data.",
        "Where each document ends is taken as given and is not predicted.",
        f"The tokenizer ({tokenizer.get('identity', 'unknown')}) was fixed before the corpus and independently of it.",
    ]


def _prior_assumptions(header: dict[str, Any]) -> list[str]:
    card = header.get("model", {})
    family = card.get("family", "unknown")
    sentences = [
        "The decoder (message format, entropy coders, quantizers and the registry of architectures, here "
        f"'{family}') was fixed before the corpus. Everything else the model depends on is in the message.",
        "Messages are self-delimiting, so that 2^(−bits) summed over all messages is at most one (Kraft): this is "
        "the prior, and it was fixed with the decoder. Any message may be chosen with the corpus in view.",
    ]
    kind = card.get("parameterization", {}).get("kind", "dense") if family != "markov" else None
    if kind not in (None, "dense"):
        sentences.append(
            f"The fixed part of the '{kind}' parameterization is drawn by the decoder's generator from the seed in the "
            "message; nothing outside the message was fitted to any data."
        )
    return sentences


def _arithmetic_assumption(header: dict[str, Any], dtype: str) -> str:
    if header.get("model", {}).get("family") == "markov":
        return "The certified predictor is the decoded Markov chain as evaluated in floating-point arithmetic."
    return (
        f"The certified predictor is the decoded model as it runs in {dtype} arithmetic on the machine that scored it. "
        "Another machine rounds differently; `tokenbounds verify --rescore` measures by how much."
    )
