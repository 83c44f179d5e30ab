"""Small GGUF files."""

import numpy as np
import pytest
import torch


def write_gguf(path):
    """A one-layer LLaMA of 20 tokens (a to o, space and ab among them) with values of F32, written by the gguf package.

    Returns the values by their names in the file, without `.weight`.
    """
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(24)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    writer.add_vocab_size(20)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*"!<>", *"abcdefghijklmno", "\u0120", "ab"])  # a space is written so
    writer.add_token_merges(["a b"])
    generator = torch.Generator().manual_seed(0)
    shapes = {"token_embd": (20, 16), "output_norm": (16,), "output": (20, 16)}
    block = {"attn_norm": (16,), "ffn_norm": (16,), "attn_q": (16, 16), "attn_k": (8, 16), "attn_v": (8, 16)}
    block |= {"attn_output": (16, 16), "ffn_gate": (24, 16), "ffn_up": (24, 16), "ffn_down": (16, 24)}
    shapes |= {f"blk.0.{name}": shape for name, shape in block.items()}
    tensors = {name: torch.randn(shape, generator=generator).numpy() for name, shape in shapes.items()}
    for name, value in tensors.items():
        writer.add_tensor(f"{name}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


_ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_model(model, path, architecture="llama", add=(), tensors=()):
    """Any model of LLaMA's kind as llama.cpp's converter lays it out, in F32.

    `add` are functions of the writer, for further keys; `tensors` pairs of names and values, for further tensors.
    """
    gguf = pytest.importorskip("gguf")
    config, writer = model.config, gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_bos_token_id(config.bos_token_id)
    for function in add:
        function(writer)
    for name, value in model.state_dict().items():
        stem, leaf = name.rsplit(".", 1)
        value = value.numpy()
        if stem in _ENDS:
            if not (stem == "lm_head" and config.tie_word_embeddings):
                writer.add_tensor(f"{_ENDS[stem]}.{leaf}", value)
            continue
        _, _, layer, module = stem.split(".", 3)
        heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
        if architecture == "llama" and module in heads:  # whose halves of a head llama.cpp interleaves
            value = value.reshape(heads[module], 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(f"blk.{layer}.{_BLOCK[module]}.{leaf}", np.ascontiguousarray(value))
    for name, value in tensors:
        writer.add_tensor(name, np.asarray(value, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
