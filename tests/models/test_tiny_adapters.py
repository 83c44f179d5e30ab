"""One short vector over a base: what it moves, what a message of it holds, and that it can be trained."""

import json

import numpy as np
import pytest
import torch
from test_adapters import CONFIGS, Repeating, logits, make_base
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import FinetunedModel, MessageSpec, Tiny, Training
from tokenbounds.config.quantizers import UniformQuantizer
from tokenbounds.errors import ModelError
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.adapters import adapter_shapes, attach_adapters, check_adapter
from tokenbounds.models.base import load_base
from tokenbounds.models.build import coded_parameters, initialize, to_dense
from tokenbounds.models.card import ModelCard
from tokenbounds.models.parameterizations import check_parameterization
from tokenbounds.models.training.finetune import finetune_model

torch.set_num_threads(1)


def attach(folder, **settings):
    return attach_adapters(load_base(folder)[0], check_adapter({"kind": "tiny", **settings}))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_vector_of_zeros_leaves_the_base_as_it_is_and_any_other_moves_every_layer(tmp_path, family):
    base = make_base(tmp_path, family)
    model = attach(tmp_path, dimension=3, targets=["attention", "mlp", "embedding"])
    assert {name: tuple(value.shape) for name, value in coded_parameters(model).items()} == {"tiny.z": (3,)}
    initialize(model, seed=9)
    assert logits(model).equal(logits(base))
    with torch.no_grad():
        model.tiny.z.copy_(torch.tensor([0.5, -1.0, 2.0]))
    assert not logits(model).allclose(logits(base), atol=1e-3)
    dense, before = to_dense(model), dict(base.named_parameters())
    assert logits(dense).allclose(logits(model), atol=1e-4)
    same = [name for name, value in dense.named_parameters() if value.equal(before[name])]
    assert all("norm" in name or "ln_" in name or "bias" in name or "wpe" in name for name in same)


def test_each_layer_has_directions_of_its_own_and_the_seed_decides_them(tmp_path):
    make_base(tmp_path)

    def directions(**settings):
        model = attach(tmp_path, dimension=3, **settings)
        return [buffer for name, buffer in model.named_buffers() if name.endswith(".directions")]

    first, again, other = directions(), directions(), directions(seed=1)
    assert all(one.equal(two) for one, two in zip(first, again, strict=True))
    assert not any(one.equal(two) for one, two in zip(first, other, strict=True))
    assert not first[0].equal(first[1])
    assert len(directions(last_layers=1)) < len(first)


def test_fine_tuning_moves_the_vector_alone_and_its_message_is_small(tmp_path):
    make_base(tmp_path / "models" / "base", seed=5)
    tiny = Tiny(kind="tiny", dimension=8, rank=4, scale=4.0)
    training = Training(steps=25, batch_tokens=64, learning_rate=0.1, save_steps=25)
    spec = FinetunedModel("finetuned", "b", "c", tiny, training, context=16, seed=2)
    folder = tmp_path / "models" / "tuned"
    finetune_model(spec, tmp_path / "models" / "base", Repeating(), folder, tmp_path / "work")
    path = tmp_path / "messages" / "tuned.tbm"
    message = MessageSpec(model="tuned", quantizer=UniformQuantizer(kind="uniform", step_ratio=0.1))
    encode_model(folder, message, path, path.with_suffix(".json"))
    assert json.loads(path.with_suffix(".json").read_text())["coded_parameters"] == 8
    assert path.stat().st_size < 250  # most of it is the base's hash and the header
    model = decode_message(path)
    ids = torch.from_numpy(Repeating().document(0)[None, :15].astype(np.int64))
    tuned, base = (
        float(torch.nn.functional.cross_entropy(one(input_ids=ids[:, :-1]).logits[0], ids[0, 1:]))
        for one in (model, load_base(tmp_path / "models" / "base")[0])
    )
    assert tuned < base - 0.1


def test_a_vector_moves_a_base_and_nothing_else(tmp_path):
    card = make_card({"kind": "dense"})
    assert adapter_shapes(card, check_adapter({"kind": "tiny", "dimension": 5})) == {"tiny.z": (5,)}
    with pytest.raises(ModelError, match="moves a base"):
        make_card({"kind": "tiny"})
    with pytest.raises(ModelError, match="moves a base"):
        check_parameterization({"kind": "subspace", "over": {"kind": "tiny"}})
    with pytest.raises(ModelError, match="from 1 to 256"):
        check_adapter({"kind": "tiny", "dimension": 1 << 20})


def make_card(parameterization):
    return ModelCard("gpt2", CONFIGS["gpt2"], 32, 1, 16, parameterization)
