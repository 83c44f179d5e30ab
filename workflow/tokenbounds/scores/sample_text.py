"""Text drawn token by token from the model that a message decodes to. The same seed gives the same text on a machine.

Tokens are drawn from the model's own predictions, without the smoothing of a certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenbounds.corpus.tokenizers import Tokenizer, named_tokenizer, row_of_identity
from tokenbounds.errors import CorpusError, MessageError
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.generator import philox
from tokenbounds.models.markov.chain import MarkovChain
from tokenbounds.models.online.card import OnlineCard
from tokenbounds.scores.scorer import vocabulary_size

# Log-probabilities of the next token, up to a constant [V], from the tokens so far.
Predict = Callable[[Sequence[int]], np.ndarray]


def sample_text(
    message: Path | str,
    prompt: str = "",
    *,
    tokens: int = 200,
    seed: int = 0,
    temperature: float = 1.0,
    tokenizer: str = "bytes",
    side_information: Sequence[Path | str] = (),
) -> str:
    """Continue a prompt with tokens from the model that a message decodes to.

    Parameters
    ----------
    message
        The message (`.tbm`), of a network or a Markov chain.
    prompt
        What precedes the first token; if empty, the beginning of a document.
    tokens
        How many to draw.
    seed
        Of the draws; the same on every machine. Predictions are the same up to rounding.
    temperature
        Log-probabilities are divided by it; 0 always takes the most probable token.
    tokenizer
        As `corpus.tokenizers.named_tokenizer` takes it: `bytes`, a folder, a GGUF file, a hub name.
    side_information
        Where to look for what the message names by hash.

    Returns
    -------
    str
        The prompt and its continuation. It may hold anything that the tokenizer can write, control characters too.

    Raises
    ------
    CorpusError
        If the tokenizer cannot be loaded, or is not the model's by the number of its tokens.
    MessageError
        If the message is damaged, what it names is missing, or it holds an online reference.
    """
    model = decode_message(message, side_information)
    if isinstance(model, OnlineCard):
        raise MessageError(
            f"{message} is an online reference, which knows nothing before it reads a corpus. Sample from a network or "
            "a Markov chain."
        )
    named, size = named_tokenizer(tokenizer), vocabulary_size(model)
    # A model's vocabulary may be padded; one that needs no files is the model's only if no token is left over.
    if named.vocabulary_size > size or (row_of_identity(named.identity) and named.vocabulary_size < size):
        raise CorpusError(
            f"{message} predicts {size:,} tokens, but the tokenizer {named.identity} has {named.vocabulary_size:,}. "
            "Name the one of its corpus: --tokenizer FOLDER."
        )
    predict = _chain_predictions(model) if isinstance(model, MarkovChain) else _network_predictions(model, named)
    drawn = [int(token) for token in named.encode([prompt])[0]] if prompt else []
    draws = np.random.Generator(philox(seed, "text"))
    for _ in range(tokens):
        try:
            scores = predict(drawn)[: named.vocabulary_size]
        except RuntimeError as error:
            what = str(error).splitlines()[0]
            raise MessageError(f"{message}: its model cannot be run with its configuration: {what:.200}") from error
        if not np.isfinite(scores.max()):
            raise MessageError(f"{message} predicts no probabilities: they are not finite.")
        drawn.append(draw_token(scores, temperature, draws.random()))
    return named.decode(drawn)


def draw_token(scores: np.ndarray, temperature: float, uniform: float) -> int:
    """The token at which the cumulative probability exceeds a uniform number.

    Parameters
    ----------
    scores
        Log-probabilities up to a constant [V], nats; the largest is finite.
    temperature
        Divides them; 0 takes the largest, the first of equal ones.
    uniform
        In [0, 1).
    """
    if temperature == 0.0:
        return int(scores.argmax())
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((scores.astype(np.float64) - float(scores.max())) / temperature)
    cumulative = weights.cumsum()
    # What is drawn lies below the total, so that a token of weight 0 is never found, at the end neither.
    place = min(uniform * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
    return int(np.searchsorted(cumulative, place, side="right"))


def _chain_predictions(chain: MarkovChain) -> Predict:
    def predict(tokens: Sequence[int]) -> np.ndarray:
        context = np.array(tokens[max(0, len(tokens) - chain.order) :], dtype=np.int64)
        with np.errstate(divide="ignore"):
            return np.log(chain.distribution(context))

    return predict


def _network_predictions(model: Any, tokenizer: Tokenizer) -> Predict:
    """The whole window for each token: attention through a sliding window keeps nothing from call to call."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    @torch.inference_mode()
    def predict(tokens: Sequence[int]) -> np.ndarray:
        inputs = [tokenizer.start_id, *tokens]
        window = torch.tensor([inputs if longest is None else inputs[-longest:]])  # [1, T]
        logits = model(input_ids=window, use_cache=False).logits[0, -1]  # [V]
        return np.asarray(logits.double().numpy())

    return predict
