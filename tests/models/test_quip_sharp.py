"""Published QuIP# checkpoints: files built to their format, word by word, and the weights they represent."""

import hashlib
import json

import numpy as np
import pytest
import torch
from quip_checkpoints import CODEBOOKS, packed_words, published_checkpoint, write_checkpoint
from tokenbounds.compression.methods.published import load_codes
from tokenbounds.config import PretrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.pretrained.e8p import ball_points, e8p_points
from tokenbounds.models.pretrained.hadamard import hadamard_matrix, hadamard_order
from tokenbounds.models.pretrained.lattice_layers import slots_of
from tokenbounds.models.pretrained.loading import import_pretrained, load_pretrained
from tokenbounds.models.pretrained.quip_sharp import unpack_e8p

torch.set_num_threads(1)


def hadamard(size):
    matrix = hadamard_matrix(hadamard_order(size)).astype(np.float64)
    while len(matrix) < size:
        matrix = np.kron(matrix, [[1, 1], [1, -1]])
    return matrix / np.sqrt(size)


def expected_weights(published, bits):
    """The dense weights by the formula, in float64."""
    found = {}
    for name, layer in published.items():
        core = e8p_points()[layer["codes"]].reshape(len(layer["codes"]), -1) / 4
        if bits == 3:
            core = core + ball_points()[layer["residuals"]].reshape(core.shape) / 2 / 2.04
        if bits == 4:
            core = core + e8p_points()[layer["residuals"]].reshape(core.shape) / 4 / 3.45
        outputs, inputs = core.shape
        dense = hadamard(outputs) @ core @ hadamard(inputs).T
        columns = layer["SU"].astype(np.float64) / layer.get("scaleWH", np.ones(inputs))
        dense = layer["SV"].astype(np.float64)[:, None] * layer["Wscale"] * dense * columns
        found[name] = dense
    return found


def spec(folder):
    return PretrainedModel(kind="pretrained", name=str(folder))


@pytest.mark.parametrize("codebook", CODEBOOKS)
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_dense_weights_follow_the_formula(tmp_path, codebook, family):
    bits = CODEBOOKS[codebook][1]
    published = published_checkpoint(tmp_path, codebook, family=family, rescaled=bits == 3)
    model, card = load_pretrained(spec(tmp_path))
    assert card.family == family
    values = {name: value.detach().numpy() for name, value in coded_parameters(model).items()}
    slots = slots_of({name: value.shape for name, value in values.items()})
    assert set(slots) == set(published)
    for name, dense in expected_weights(published, bits).items():
        scales = published[name].get("fuse_scales", np.ones(1))
        start = 0
        for weight, rows, scale in zip(slots[name].weights, slots[name].rows, scales, strict=True):
            piece = dense[start : start + rows] * scale
            assert np.allclose(values[weight], piece, atol=1e-5 * np.abs(piece).max()), weight
            start += rows


def test_fused_pieces_are_in_the_published_order(tmp_path):
    published_checkpoint(tmp_path, "E8P12")
    model, _ = load_pretrained(spec(tmp_path))
    slots = slots_of({name: tuple(value.shape) for name, value in coded_parameters(model).items()})
    names = [weight.rpartition("layers.0.")[2] for name in slots for weight in slots[name].weights if ".0." in name]
    assert names == [
        f"{layer}.weight"
        for layer in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.up_proj", "mlp.gate_proj", "mlp.down_proj",
        )
    ]  # fmt: skip


def test_words_are_packed_as_published():
    """Codes of 32 rows; the digest is that of the words that the publishers' packing makes of them."""
    codes = (7 * np.arange(32 * 16) * 257 % 65536).astype(np.uint16).reshape(32, 16)
    words = packed_words(codes)
    assert words.shape == (32, 4)
    assert hashlib.sha256(words.astype("<i8").tobytes()).hexdigest()[:16] == "8c0f61f72129b736"
    assert np.array_equal(unpack_e8p(words), codes)


def test_codes_of_an_import_stand_for_the_values(tmp_path):
    published_checkpoint(tmp_path / "hub", "E8P12RVQ4B")
    import_pretrained(spec(tmp_path / "hub"), tmp_path / "model")
    model, _ = load_pretrained(spec(tmp_path / "hub"))
    values = {name: value.detach().numpy() for name, value in coded_parameters(model).items()}
    codes = load_codes(tmp_path / "model")
    assert (codes.bits, codes.residual_scale) == (4, 3.45)
    slots = slots_of({name: value.shape for name, value in values.items()})
    assert codes.layers.keys() == slots.keys()
    for name, layer in codes.layers.items():
        for weight, found in layer.dense(slots[name], codes.bits, codes.residual_scale).items():
            assert found.tobytes() == values[weight].tobytes()


def test_a_plain_model_has_no_codes(tmp_path):
    published_checkpoint(tmp_path / "hub", "E8P12")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "codes.safetensors").write_text("of an earlier release")
    model, _ = load_pretrained(spec(tmp_path / "hub"))
    model.save_pretrained(tmp_path / "plain")
    import_pretrained(spec(tmp_path / "plain"), tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"card.json", "original.json"}
    with pytest.raises(ModelError, match="QuIP#"):
        load_codes(tmp_path / "model")


def test_residual_scale_of_the_configuration_is_used(tmp_path):
    published_checkpoint(tmp_path / "a", "E8P12RVQ3B")
    published_checkpoint(tmp_path / "b", "E8P12RVQ3B", params={"resid_scale_override": 1.5})
    first, second = (coded_parameters(load_pretrained(spec(tmp_path / name))[0]) for name in "ab")
    name = next(name for name in first if "q_proj" in name)
    assert not torch.equal(first[name], second[name])


LAYER = "model.layers.0.self_attn.o_proj"


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        (f"{LAYER}.Qidxs", None, "Qidxs"),
        (f"{LAYER}.Qidxs", lambda value: value[:, :-1], "Qidxs"),
        (f"{LAYER}.Qidxs", lambda value: value.int(), "Qidxs"),
        (f"{LAYER}.SU", lambda value: value[:-1], "SU"),
        (f"{LAYER}.SV", lambda value: value * float("inf"), "SV"),
        (f"{LAYER}.SV", lambda value: value.int(), "SV"),
        (f"{LAYER}.Wscale", None, "Wscale"),
        (f"{LAYER}.Wscale", lambda value: value.reshape(1), "Wscale"),
        (f"{LAYER}.codebook_id", lambda value: value + 1, "codebook_id"),
        ("model.layers.0.mlp.upgate_proj.fuse_scales", None, "fuse_scales"),
        ("model.layers.0.mlp.upgate_proj.fuse_scales", lambda value: value[:1], "fuse_scales"),
        ("model.norm.weight", None, "norm"),
        ("model.norm.weight", lambda value: value * float("nan"), "finite"),
        (f"{LAYER}.scaleWH", lambda value: torch.ones(64), "scaleWH"),
        ("model.extra", lambda value: torch.ones(1), "extra"),
    ],
)
def test_malformed_checkpoints_are_refused_by_name(tmp_path, name, change, fault):
    published_checkpoint(tmp_path, "E8P12")
    write_checkpoint(tmp_path, name, change)
    with pytest.raises(ModelError, match=fault):
        load_pretrained(spec(tmp_path))


@pytest.mark.parametrize(
    ("params", "fault"),
    [
        ({"codebook": "D4"}, "codebook"),
        ({"codebook": ["E8P12"]}, "codebook"),
        ({"lora_rank": 8}, "low-rank"),
        ({"codebook_version": 0}, "version"),
        ({"resid_scale_override": "2"}, "resid_scale_override"),
        ({"resid_scale_override": float("nan")}, "resid_scale_override"),
    ],
)
def test_other_formats_are_refused(tmp_path, params, fault):
    published_checkpoint(tmp_path, "E8P12", params=params)
    with pytest.raises(ModelError, match=fault):
        load_pretrained(spec(tmp_path))


def test_sizes_without_the_publishers_matrix_are_refused(tmp_path):
    published_checkpoint(tmp_path, "E8P12")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 704}))
    with pytest.raises(ModelError, match="cannot be a QuIP# layer"):
        load_pretrained(spec(tmp_path))
