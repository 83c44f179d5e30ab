"""A small GGUF file."""

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
