"""What a GGUF file says about its model: each key becomes part of the configuration, or an error names it.

transformers reads the values of a GGUF file, but leaves out what the file says about positions: scaled rotary
frequencies and sliding windows. Here each key is either understood, harmless, or an error, and so is each tensor.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenbounds.errors import ModelError
from tokenbounds.files import check_no_pointer

GPT2_SIZES = {
    "context_length": "n_positions",
    "block_count": "n_layer",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
ROTARY_SIZES = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
# Keys of an architecture that are checked or used below, each by its own rule.
_ROPE_KEYS = (
    "rope.freq_base", "rope.dimension_count", "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.attn_factor", "rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
)  # fmt: skip
_OTHER_KEYS = ("vocab_size", "attention.key_length", "attention.value_length", "attention.sliding_window")
# Keys that say nothing about what is computed, or that are harmless only with these values.
_DESCRIPTIVE = ("GGUF.", "general.", "tokenizer.", "quantize.", "training.")
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "rope.scaling.finetuned": (True, False),
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "pooling_type": (0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "tensor_data_layout": ("Meta AI original pth",),
}
ENDS = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
}  # fmt: skip
BLOCK = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
GPT2_ENDS = {
    "token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
    "output": "lm_head",
}  # fmt: skip
GPT2_BLOCK = {
    "attn_norm": "ln_1", "ffn_norm": "ln_2", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip
# What gguf's reader raises for truncated or damaged files.
_DAMAGE = (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, struct.error)
_LONGEST_LIST = 1000  # longer ones, such as vocabularies, are not read
FREQUENCIES = "rope_freqs.weight"
# Training lengths before scaling to try for LLaMA 3's rule; LLaMA 3's own is 8192.
_ORIGINAL_LENGTHS = (8192, *(1 << power for power in range(4, 21)))


class GgufTensor(NamedTuple):
    """Where the bytes of a tensor are, and what they mean: its shape and type as gguf reads them."""

    begin: int
    items: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    kind: Any


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file without its values.

    Attributes
    ----------
    path : Path
    values : mapping
        Its metadata; for vocabularies and other long lists only the length.
    tensors : mapping of str to GgufTensor
    factors : float32 [head_dim / 2], optional
        What rotary frequencies are divided by (`rope_freqs.weight`).
    """

    path: Path
    values: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    factors: np.ndarray | None

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Read the metadata of a file.

        Raises
        ------
        ModelError
            If the file is missing, cut short, damaged, a Git LFS pointer, or one part of several.
        """
        from gguf import GGUFReader, dequantize

        check_no_pointer(path, ModelError)
        try:
            reader = GGUFReader(path)
            values = {
                name: f"a list of {len(field.data)}" if len(field.data) > _LONGEST_LIST else field.contents()
                for name, field in reader.fields.items()
            }
            found = [tensor for tensor in reader.tensors if tensor.name == FREQUENCIES]
            factors = np.asarray(dequantize(found[0].data, found[0].tensor_type)).reshape(-1) if found else None
        except _DAMAGE as error:
            raise ModelError(f"{path} is truncated or damaged, or is not a GGUF file. Download it again.") from error
        if values.get("split.count", 1) not in (0, 1):
            raise ModelError(
                f"{path} is one of {values['split.count']} parts. Merge them (`llama-gguf-split --merge`)."
            )
        tensors = {
            tensor.name: GgufTensor(
                int(tensor.data_offset), tensor.data.size, tensor.data.dtype, tensor.data.shape, tensor.tensor_type
            )
            for tensor in reader.tensors
        }
        return cls(path, values, tensors, factors)

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.values.get("general.architecture"))

    def config(self) -> dict[str, Any]:
        """The configuration under transformers' names; `model_type` says which family computes what the file says.

        Raises
        ------
        ModelError
            If a key is missing, contradicts another, or is not understood; it is named.
        """
        architecture = self.architecture
        tokens = {f"{name}_token_id": self.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
        config: dict[str, Any] = {
            "model_type": architecture,
            "tie_word_embeddings": "output.weight" not in self.tensors,
            **tokens,
        }
        if "vocab_size" in self._own():
            config["vocab_size"] = self._own()["vocab_size"]
        if architecture == "gpt2":
            self._check_keys((*GPT2_SIZES, "vocab_size"))
            return config | self._sizes(GPT2_SIZES)
        if architecture not in ("llama", "mistral", "qwen2", "qwen3"):
            return config
        self._check_keys((*ROTARY_SIZES, *_ROPE_KEYS, *_OTHER_KEYS))
        config |= self._sizes(ROTARY_SIZES)
        head_dim = self._head_dim(config)
        config |= {"head_dim": head_dim} if architecture != "qwen2" else {}
        if architecture == "qwen2" and head_dim * config["num_attention_heads"] != config["hidden_size"]:
            raise self._fault("attention.key_length", "qwen2 has no heads of another size than its width gives")
        config["rope_parameters"] = self._rope(head_dim, config["max_position_embeddings"])
        window = self._own().get("attention.sliding_window")
        if window not in (None, 0) and window < config["max_position_embeddings"]:
            if architecture not in ("llama", "mistral"):
                raise self._fault("attention.sliding_window", f"a window of {architecture} is not supported")
            config |= {"model_type": "mistral", "sliding_window": window}
        elif architecture == "mistral":
            config["sliding_window"] = None
        return config

    def parameters(self) -> dict[str, str]:
        """The tensor of each parameter, by transformers' names; constants are left out.

        Raises
        ------
        ModelError
            If a tensor belongs to no parameter; it is named.
        """
        found = {}
        for name in self.tensors:
            if name == FREQUENCIES or name.endswith(".attn_rot_embd"):
                continue
            parameter = self._parameter(name)
            if parameter is None:
                raise self._unused(name)
            found[parameter] = name
        return found

    def check_tensors(self, known: Collection[str]) -> None:
        """Refuse a file with a tensor that belongs to none of the model's parameters.

        Raises
        ------
        ModelError
            The tensor is named.
        """
        for parameter, name in self.parameters().items():
            if parameter not in known:
                raise self._unused(name)

    def _unused(self, name: str) -> ModelError:
        return ModelError(f"{self.path}: nothing in a {self.architecture} model uses the tensor {name}.")

    def _own(self) -> dict[str, Any]:
        """Keys of the architecture, without its name."""
        prefix = f"{self.architecture}."
        return {key.removeprefix(prefix): value for key, value in self.values.items() if key.startswith(prefix)}

    def _fault(self, key: str, reason: str) -> ModelError:
        value = self.values.get(f"{self.architecture}.{key}")
        return ModelError(f"{self.path}: {self.architecture}.{key} is {value!r:.80}; {reason}.")

    def _check_keys(self, understood: Iterable[str]) -> None:
        known = {f"{self.architecture}.{key}" for key in understood}
        harmless = {f"{self.architecture}.{key}": values for key, values in _HARMLESS.items()}
        for key, value in self.values.items():
            if key in known or key.startswith(_DESCRIPTIVE) or key.startswith("split."):
                continue
            if value not in harmless.get(key, ()):
                raise ModelError(
                    f"{self.path}: the key {key} = {value!r:.80} is not understood, so the model may differ."
                )

    def _sizes(self, names: Mapping[str, str]) -> dict[str, Any]:
        own = self._own()
        for key in names:
            if key not in own:
                raise ModelError(f"{self.path} does not say {self.architecture}.{key}. Convert the model again.")
        return {name: own[key] for key, name in names.items()}

    def _head_dim(self, config: Mapping[str, Any]) -> int:
        own, heads = self._own(), config["num_attention_heads"]
        if not isinstance(heads, int) or heads < 1 or not isinstance(config["num_key_value_heads"], int):
            raise self._fault("attention.head_count", "one number for all blocks is wanted")
        head_dim = own.get("attention.key_length", config["hidden_size"] // heads)
        for key in ("attention.value_length", "rope.dimension_count"):
            if own.get(key, head_dim) != head_dim:
                raise self._fault(key, f"heads of {head_dim} are not supported with that")
        return int(head_dim)

    def _rope(self, head_dim: int, context: int) -> dict[str, Any]:
        """Rotary parameters as transformers names them; llama.cpp's defaults where the file is silent."""
        own = self._own()
        theta = float(own.get("rope.freq_base", 10000.0))
        kind = own.get("rope.scaling.type", "linear")
        factor = float(own.get("rope.scaling.factor", own.get("rope.scale_linear", 0.0))) or 1.0
        if own.get("rope.scaling.attn_factor", 1.0) not in (0.0, 1.0):
            raise self._fault("rope.scaling.attn_factor", "only 1 is supported")
        if kind not in ("none", "linear", "yarn"):
            raise self._fault("rope.scaling.type", "supported are none, linear and yarn")
        scaled = kind != "none" and factor != 1.0
        if self.factors is not None and not np.all(self.factors == 1.0):
            if scaled:
                raise ModelError(f"{self.path}: {FREQUENCIES} and rope.scaling contradict each other. Keep one.")
            return _rope_of_factors(self.factors, theta, head_dim, context, self.path)
        if not scaled:
            return {"rope_type": "default", "rope_theta": theta}
        if kind == "linear":
            return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
        return {
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": factor,
            "original_max_position_embeddings": own.get("rope.scaling.original_context_length", context),
            **{
                name: float(own[f"rope.scaling.yarn_{name}"])
                for name in ("beta_fast", "beta_slow")
                if f"rope.scaling.yarn_{name}" in own
            },
        }

    def _parameter(self, name: str) -> str | None:
        """The parameter that a tensor holds."""
        stem, dot, leaf = name.rpartition(".")
        gpt2 = self.architecture == "gpt2"
        if not stem.startswith("blk."):
            end = (GPT2_ENDS if gpt2 else ENDS).get(stem)
            return f"{end}.{leaf}" if end and dot else None
        _, number, module = (*stem.split(".", 2), "")[:3]
        inner = (GPT2_BLOCK if gpt2 else BLOCK).get(module)
        return f"{'transformer.h' if gpt2 else 'model.layers'}.{number}.{inner}.{leaf}" if inner else None


def _rope_of_factors(factors: np.ndarray, theta: float, head_dim: int, context: int, path: Path) -> dict[str, Any]:
    """Rotary parameters whose frequencies are the plain ones divided by factors, float32 [head_dim / 2].

    LLaMA 3's rule, where it gives these factors; otherwise they are listed, as a longrope whose two lists are equal.
    """
    if factors.shape != (head_dim // 2,) or not np.all(np.isfinite(factors)) or not np.all(factors > 0):
        raise ModelError(f"{path}: {FREQUENCIES} does not hold {head_dim // 2} positive numbers.")
    factor = round(float(factors.max()), 4)
    wavelengths = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    for original in _ORIGINAL_LENGTHS if factor > 1 else ():
        low, high = 1.0, 4.0
        smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
        if np.allclose(1.0 / ((1 - smooth) / factor + smooth), factors, rtol=1e-5, atol=0.0):
            return {
                "rope_type": "llama3",
                "rope_theta": theta,
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    listed = [float(value) for value in factors]
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "short_factor": listed,
        "long_factor": listed,
        "attention_factor": 1.0,
        "factor": 1.0,
        "original_max_position_embeddings": context,
    }
