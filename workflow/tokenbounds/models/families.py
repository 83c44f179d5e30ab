"""The families of transformers that a card can name, with the keys a card may set and the role of every layer.

To add a family, add one entry: the names of its transformers classes, its fields, the names of its layers by role. The
classes are looked up in transformers by the names written here, never by a name from a card or a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenbounds.errors import ModelError
from tokenbounds.models.fields import Choice, Field, Flag, Integer, Real, Rope

ROLES = ("attention", "mlp", "head", "embedding")

_MAX_LAYERS = 1 << 12
_MAX_HEADS = 1 << 12
_MAX_WIDTH = 1 << 20
_ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True)
class Family:
    """One family of decoder-only transformers.

    `context_key` is the configuration key of the largest number of positions. `layers_key` counts the blocks. `fixed`
    are configuration values that no card of the family may change: a checkpoint with others is refused. `layers` names,
    by role, the ends of the module names of linear layers and embeddings; `residual` those whose output is added to the
    residual stream. `blocks` is the list of blocks, which take hidden states first and return hidden states, and
    `final_norm` the norm after them.
    """

    config_class: str
    model_class: str
    context_key: str
    layers_key: str
    hidden_key: str
    fields: Mapping[str, Field]
    fixed: Mapping[str, Any]
    layers: Mapping[str, tuple[str, ...]]
    residual: tuple[str, ...]
    blocks: str = "model.layers"
    final_norm: str = "model.norm"
    has_rope: bool = True

    def role(self, module_name: str) -> str | None:
        """The role of a linear layer or embedding by its module name; None if it has none."""
        for role, ends in self.layers.items():
            if any(module_name == end or module_name.endswith("." + end) for end in ends):
                return role
        return None


def _llama_like(*, hidden: tuple[int, int], **more: Field) -> dict[str, Field]:
    """Fields shared by LLaMA and its descendants; `hidden` are the default widths of stream and feed-forward."""
    return {
        "num_hidden_layers": Integer(32, 1, _MAX_LAYERS),
        "hidden_size": Integer(hidden[0], 1, _MAX_WIDTH),
        "intermediate_size": Integer(hidden[1], 1, _MAX_WIDTH),
        "num_attention_heads": Integer(32, 1, _MAX_HEADS),
        "num_key_value_heads": Integer(None, 1, _MAX_HEADS),
        "hidden_act": Choice("silu", _ACTIVATIONS),
        "rms_norm_eps": Real(1e-6, 0.0, 1.0),
        "tie_word_embeddings": Flag(False),
        "rope_parameters": Rope(),
        **more,
    }


_LLAMA_LAYERS = {
    "attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    "mlp": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "head": ("lm_head",),
    "embedding": ("embed_tokens",),
}


def _llama_family(name: str, fields: Mapping[str, Field], fixed: Mapping[str, Any]) -> Family:
    return Family(
        config_class=f"{name}Config",
        model_class=f"{name}ForCausalLM",
        context_key="max_position_embeddings",
        layers_key="num_hidden_layers",
        hidden_key="hidden_size",
        fields=fields,
        fixed=fixed,
        layers=_LLAMA_LAYERS,
        residual=("self_attn.o_proj", "mlp.down_proj"),
    )


_HEAD_DIM = Integer(None, 2, 1 << 12)
_NO_WINDOW = {"use_sliding_window": False, "sliding_window": None}

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        config_class="GPT2Config",
        model_class="GPT2LMHeadModel",
        context_key="n_positions",
        layers_key="n_layer",
        hidden_key="n_embd",
        fields={
            "n_layer": Integer(12, 1, _MAX_LAYERS),
            "n_embd": Integer(768, 1, _MAX_WIDTH),
            "n_head": Integer(12, 1, _MAX_HEADS),
            "n_inner": Integer(None, 1, _MAX_WIDTH),
            "activation_function": Choice("gelu_pytorch_tanh", _ACTIVATIONS),
            "layer_norm_epsilon": Real(1e-5, 0.0, 1.0),
            "scale_attn_weights": Flag(True),
            "scale_attn_by_inverse_layer_idx": Flag(False),
            "tie_word_embeddings": Flag(True),
        },
        fixed={"add_cross_attention": False},
        layers={
            "attention": ("attn.c_attn", "attn.c_proj"),
            "mlp": ("mlp.c_fc", "mlp.c_proj"),
            "head": ("lm_head",),
            "embedding": ("wte", "wpe"),
        },
        residual=("attn.c_proj", "mlp.c_proj"),
        blocks="transformer.h",
        final_norm="transformer.ln_f",
        has_rope=False,
    ),
    "llama": _llama_family(
        "Llama",
        _llama_like(hidden=(4096, 11008), head_dim=_HEAD_DIM, attention_bias=Flag(False), mlp_bias=Flag(False)),
        {},
    ),
    "mistral": _llama_family(
        "Mistral",
        _llama_like(hidden=(4096, 14336), head_dim=_HEAD_DIM, sliding_window=Integer(None, 1, 1 << 30)),
        {},
    ),
    "qwen2": _llama_family("Qwen2", _llama_like(hidden=(4096, 22016)), _NO_WINDOW),
    "qwen3": _llama_family(
        "Qwen3", _llama_like(hidden=(4096, 22016), head_dim=_HEAD_DIM, attention_bias=Flag(False)), _NO_WINDOW
    ),
}


def family_of(name: Any) -> Family:
    """Look up a family.

    Raises
    ------
    ModelError
        If no family has this name; the message lists the known ones.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(f"the architecture {name!r:.80} is not supported; supported: {', '.join(FAMILIES)}.")
    return FAMILIES[name]
