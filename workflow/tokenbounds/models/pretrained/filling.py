"""Filling a model with the values of a file: every parameter must be present, and nothing else but constants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from tokenbounds.errors import ModelError
from tokenbounds.models.families import Family

OTHER_HEAD = (
    "its configuration says tie_word_embeddings, but the file holds an lm_head.weight that is not the embedding. "
    "Correct the configuration, or remove the tensor."
)
FREE_VALUES = 1 << 20  # values that a configuration may describe beyond those of its file before it is refused
_CHECKED_TOGETHER = 1 << 22  # values
# Constants that older releases of transformers wrote next to the parameters: rotary frequencies, GPT-2's masks.
_CONSTANTS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


def is_constant(name: str) -> bool:
    """Whether a tensor of a checkpoint is a constant of the architecture, which no model reads from the file."""
    return name.endswith(_CONSTANTS)


def check_finite(tensors: Iterable[tuple[str, torch.Tensor]], where: str) -> None:
    """Refuse values that are not finite.

    Raises
    ------
    ModelError
        The tensor is named.
    """
    for name, value in tensors:
        # In parts: the check takes three times a tensor's own memory.
        if not all(torch.isfinite(part).all() for part in value.reshape(-1).split(_CHECKED_TOGETHER)):
            raise ModelError(f"{where}: the tensor {name} holds values that are not finite. Download or save it again.")


def fill_model(
    config: PreTrainedConfig, family: Family, tensors: Mapping[str, torch.Tensor], where: str
) -> PreTrainedModel:
    """A transformers model, float32, with values from a file; every parameter must be present, and nothing else.

    Constants are left out, and so are biases of zeros where the model has none (as AutoGPTQ wrote them), and a head
    equal to the embedding that it is tied to.

    Raises
    ------
    ModelError
        If a tensor is missing, left over, of another shape, or not finite, or a tied head differs from the embedding.
    """
    _check_claims(config, family, tensors, where)
    model = getattr(transformers, family.model_class)(config)
    known = model.state_dict().keys()
    values = {
        name: value
        for name, value in tensors.items()
        if not is_constant(name) and (name in known or not name.endswith(".bias") or value.any())
    }
    check_finite(values.items(), where)
    if config.tie_word_embeddings and "lm_head.weight" in values:
        embedding = next(name for name, value in model.named_parameters() if value is model.lm_head.weight)
        head = values.pop("lm_head.weight")
        if not torch.equal(head.float(), values.get(embedding, head).float()):
            raise ModelError(f"{where}: {OTHER_HEAD}")
    try:
        missing, unexpected = model.load_state_dict(values, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{where}: {' '.join(str(error).split())[:300]}") from error
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if strange := sorted({*missing, *unexpected} - tied):
        raise ModelError(f"{where}: its weights do not fit a {family.model_class} (first at {strange[0]}).")
    return cast(PreTrainedModel, model.float().eval())


def _check_claims(config: PreTrainedConfig, family: Family, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse a configuration of a far larger model than the tensors are of, before it is built."""
    layers = getattr(config, family.layers_key)
    if layers > len(tensors):
        raise ModelError(
            f"{where}: its configuration describes {layers:,} layers; its file has {len(tensors)} tensors."
        )
    with torch.device("meta"):
        wanted = sum(value.numel() for value in getattr(transformers, family.model_class)(config).parameters())
    found = sum(value.numel() for value in tensors.values())
    if wanted > FREE_VALUES + 2 * found:
        raise ModelError(f"{where}: its configuration describes {wanted:,} values; its file has {found:,}.")


def first_line(error: Exception) -> str:
    """The beginning of an error's text, in one line, to quote in an error of ours."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def reading(where: object) -> Iterator[None]:
    """Make one error of whatever a library raises, of any type, on files that it does not understand.

    Raises
    ------
    ModelError
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"cannot load {where}: {first_line(error)}") from error
