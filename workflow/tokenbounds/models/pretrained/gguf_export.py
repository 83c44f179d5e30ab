"""A model as a GGUF file, in float32, laid out as llama.cpp's converter does: the reverse of `gguf_metadata`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel

from tokenbounds.errors import ModelError
from tokenbounds.files import atomic_path
from tokenbounds.models.pretrained.gguf_metadata import (
    BLOCK,
    ENDS,
    FREQUENCIES,
    GPT2_BLOCK,
    GPT2_ENDS,
    GPT2_SIZES,
    ROTARY_SIZES,
)

if TYPE_CHECKING:
    from gguf import GGUFWriter

# The file's name of each architecture: llama.cpp knows Mistral's models without a window as LLaMA's.
_ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_INTERLEAVED = ("q_proj", "k_proj")  # of the architecture llama: the halves of a head alternate in the file
_TRANSPOSED = ("c_attn", "c_proj", "c_fc")  # of gpt2: stored as [inputs, outputs] by transformers


def write_gguf(model: PreTrainedModel, path: Path | str) -> None:
    """Write a dense model as a GGUF file without a tokenizer.

    Parameters
    ----------
    model : PreTrainedModel
        Of a family that llama.cpp knows. Values are written as float32, so nothing is lost.
    path : path
        The file, whole or not at all.

    Raises
    ------
    ModelError
        If the gguf package is missing, or the architecture has no GGUF form here; what is in the way is named.
    """
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise ModelError("GGUF files need the package gguf: pip install 'tokenbounds[gguf]'.") from error
    config = model.config.to_dict()
    architecture = _ARCHITECTURES.get(config["model_type"])
    if architecture is None:
        known = ", ".join(_ARCHITECTURES)
        raise ModelError(
            f"the architecture '{config['model_type']}' cannot be written as GGUF; those that can: {known}."
        )
    window = config.get("sliding_window")
    if config["model_type"] == "mistral" and window and window < config["max_position_embeddings"]:
        raise ModelError("a GGUF file of a Mistral model has no sliding window. Write a Hugging Face folder instead.")
    with atomic_path(path) as temporary:
        writer = GGUFWriter(str(temporary), architecture)
        _add_keys(writer, architecture, config)
        for name, value in model.state_dict().items():
            if name != "lm_head.weight" or not config["tie_word_embeddings"]:
                writer.add_tensor(*_tensor(name, value.float().numpy(), architecture, config))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _add_keys(writer: GGUFWriter, architecture: str, config: Mapping[str, Any]) -> None:
    """Sizes, special tokens and rotary frequencies."""
    for key, name in (GPT2_SIZES if architecture == "gpt2" else ROTARY_SIZES).items():
        value = config[name]
        if key == "feed_forward_length" and value is None:  # GPT-2's default
            value = 4 * config["n_embd"]
        if isinstance(value, float):
            writer.add_float32(f"{architecture}.{key}", value)
        else:
            writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_vocab_size(config["vocab_size"])
    for name, add in (("bos_token_id", writer.add_bos_token_id), ("eos_token_id", writer.add_eos_token_id)):
        if isinstance(config.get(name), int):
            add(config[name])
    if architecture != "gpt2":
        _add_rope(writer, config)


def _add_rope(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope["rope_theta"])
    match rope.get("rope_type", "default"):
        case "default":
            pass
        case "llama3":
            writer.add_tensor(FREQUENCIES, _llama3_factors(rope, head_dim))
        case kind:
            raise ModelError(
                f"rotary frequencies of the type '{kind}' cannot be written as GGUF. "
                "Write a Hugging Face folder instead."
            )


def _llama3_factors(rope: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """What LLaMA 3's rule divides each rotary frequency by, float32 [head_dim / 2]."""
    wavelengths = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((rope["original_max_position_embeddings"] / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def _tensor(name: str, value: np.ndarray, architecture: str, config: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    """Name and values of a parameter in the file."""
    stem, _, leaf = name.rpartition(".")
    ends, inner = (GPT2_ENDS, GPT2_BLOCK) if architecture == "gpt2" else (ENDS, BLOCK)
    for theirs, ours in ends.items():
        if stem == ours:
            return f"{theirs}.{leaf}", value
    _, _, number, module = stem.split(".", 3)  # transformer.h.0.attn.c_attn, model.layers.0.self_attn.q_proj
    theirs = next(theirs for theirs, ours in inner.items() if ours == module)
    kind = module.rpartition(".")[2]
    if architecture == "gpt2" and kind in _TRANSPOSED and value.ndim == 2:
        value = value.T
    if architecture == "llama" and kind in _INTERLEAVED:
        heads = config["num_attention_heads" if kind == "q_proj" else "num_key_value_heads"]
        value = value.reshape(heads, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
    return f"blk.{number}.{theirs}.{leaf}", np.ascontiguousarray(value)
