"""Small QuIP# checkpoints in the published format, packed here code by code."""

import json

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

CODEBOOKS = {"E8P12": (7, 2, 1, 4), "E8P12RVQ3B": (18, 3, 0, 8 / 3), "E8P12RVQ4B": (17, 4, 1, 2)}
SIZES = {
    "vocab_size": 40, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "bos_token_id": 1,
}  # fmt: skip
LAYERS = {
    "self_attn.qkv_proj": (128, 64, 3), "self_attn.o_proj": (64, 64, 1),
    "mlp.upgate_proj": (384, 64, 2), "mlp.down_proj": (64, 192, 1),
}  # fmt: skip
CLASSES = {"llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM)}


def packed_words(codes):
    """int64 words of E8P codes [m, n / 8]: tiles of 16 rows × 8 codes, a word for 2 × 2 codes of a tile.

    In a tile, word (r, c) of 8 × 4 covers rows 2r, 2r + 1 and codes 2c, 2c + 1. Number its codes w = row + 2 · code:
    the upper byte of code w is byte w of the lower half; bit b of its lower byte is bit 4b + w of the upper half.
    """
    rows, columns = codes.shape
    words = []
    for top in range(0, rows, 16):
        for left in range(0, columns, 8):
            for row in range(top, top + 16, 2):
                for column in range(left, left + 8, 2):
                    word = 0
                    for which in range(4):
                        code = int(codes[row + which % 2, column + which // 2])
                        word |= (code >> 8) << (8 * which)
                        for bit in range(8):
                            word |= (code >> bit & 1) << (32 + 4 * bit + which)
                    words.append(word)
    return np.array(words, dtype=np.uint64).astype(np.int64).reshape(rows, columns // 4)


def published_layer(rng, outputs, inputs, pieces, codebook, rescaled):
    """A layer's unpacked values and its tensors as published."""
    identifier, bits, _, _ = CODEBOOKS[codebook]
    layer = {
        "codes": rng.integers(0, 1 << 16, size=(outputs, inputs // 8)).astype(np.uint16),
        "SU": (rng.choice([-1, 1], size=inputs) * rng.uniform(0.9, 1.1, size=inputs)).astype(np.float16),
        "SV": (rng.choice([-1, 1], size=outputs) * 0.02).astype(np.float16),
        "Wscale": np.float32(1.25),
    }
    if pieces > 1:
        layer["fuse_scales"] = rng.uniform(0.5, 2, size=pieces).astype(np.float32)
    if rescaled:
        layer["scaleWH"] = rng.uniform(0.5, 2, size=inputs).astype(np.float32)
    words = [packed_words(layer["codes"])]
    if bits == 3:
        layer["residuals"] = rng.integers(0, 256, size=layer["codes"].shape).astype(np.uint16)
        words.append(layer["residuals"].astype(np.uint8).view("<i8"))
    if bits == 4:
        layer["residuals"] = rng.integers(0, 1 << 16, size=layer["codes"].shape).astype(np.uint16)
        words.append(packed_words(layer["residuals"]))
    tensors = {key: value for key, value in layer.items() if key not in ("codes", "residuals")}
    tensors |= {"Qidxs": np.concatenate(words, axis=1), "codebook_id": np.int64(identifier)}
    return layer, {key: torch.from_numpy(np.array(value)) for key, value in tensors.items()}


def published_checkpoint(folder, codebook, family="llama", rescaled=False, params=None):
    """Write a checkpoint; return the unpacked values of its layers by name."""
    rng = np.random.default_rng(5)
    config_class, model_class = CLASSES[family]
    config = config_class(**SIZES)
    torch.manual_seed(0)
    dense = {name: value.half() for name, value in model_class(config).state_dict().items() if "_proj" not in name}
    tensors, published = dict(dense), {}
    for index in range(SIZES["num_hidden_layers"]):
        for leaf, (outputs, inputs, pieces) in LAYERS.items():
            name = f"model.layers.{index}.{leaf}"
            published[name], found = published_layer(rng, outputs, inputs, pieces, codebook, rescaled)
            tensors |= {f"{name}.{key}": value for key, value in found.items()}
    folder.mkdir(exist_ok=True)
    config.save_pretrained(folder)
    _, _, version, packsz = CODEBOOKS[codebook]
    settings = {"codebook": codebook, "codebook_version": version, "codesz": 8, "idx_dtype": "torch.int64"}
    settings |= {"lora_rank": 0, "model_version": 1, "packsz": packsz, "rescale_WH": rescaled}
    written = json.loads((folder / "config.json").read_text())
    written["quip_params"] = {**settings, "resid_scale_override": -1, **(params or {})}
    (folder / "config.json").write_text(json.dumps(written))
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    return published


def write_checkpoint(folder, name, change):
    """Change one tensor of a checkpoint, or remove it."""
    tensors = load_file(folder / "model.safetensors")
    old = tensors.pop(name, None)
    if change is not None:
        tensors[name] = change(old).contiguous()
    save_file(tensors, folder / "model.safetensors")
