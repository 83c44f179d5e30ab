"""Where training starts: from drawn values, or from the nearest factors of another model."""

import pytest
import torch
from small_training import make_spec
from tokenbounds.config import Architecture, Dense, Kronecker, Monarch, TrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.models.architecture import card_from_spec
from tokenbounds.models.checkpoint import load_checkpoint
from tokenbounds.models.loss import summed_loss_nats
from tokenbounds.models.training.data import BlockSampler
from tokenbounds.models.training.start import initial_model
from tokenbounds.models.training.train import train_model


def test_training_starts_from_the_nearest_factors_of_another_model(tmp_path, corpus):
    train_model(make_spec(steps=30), corpus, tmp_path / "dense", tmp_path / "work")
    for parameterization in (
        Dense(kind="dense"),
        Kronecker(kind="kronecker", terms=9),
        Monarch(kind="monarch", blocks=1),
    ):
        spec = make_spec(parameterization)
        card = card_from_spec(spec, vocabulary_size=32, start_id=0)
        model, dense = initial_model(spec, card, tmp_path / "dense"), load_checkpoint(tmp_path / "dense")[0]
        drawn = initial_model(spec, card)
        batch = tuple(map(torch.from_numpy, BlockSampler(corpus, 16, 640, seed=9).batch(0)))
        losses = [summed_loss_nats(each, *batch).item() for each in (model, dense, drawn)]
        assert losses[0] < 0.5 * (losses[1] + losses[2]), parameterization
        if parameterization.kind != "kronecker":  # one block, or none, can say everything
            assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_projection_of_drawn_values_is_not_the_drawn_factors():
    rows = [Kronecker(kind="kronecker", initialization=kind) for kind in ("random", "dense_projection")]
    models = [
        initial_model(make_spec(row), card_from_spec(make_spec(row), vocabulary_size=32, start_id=0)) for row in rows
    ]
    dense = initial_model(make_spec(), card_from_spec(make_spec(), vocabulary_size=32, start_id=0))
    wanted = dense.transformer.h[0].mlp.c_fc.weight.T
    errors = [(each.transformer.h[0].mlp.c_fc.dense_weight() - wanted).square().sum() for each in models]
    assert errors[1] < wanted.square().sum() < errors[0]
    assert torch.equal(models[1].transformer.wte.weight, dense.transformer.wte.weight)


def test_a_start_of_another_shape_names_the_tensor(tmp_path, corpus):
    train_model(make_spec(steps=1), corpus, tmp_path / "dense", tmp_path / "work")
    row = make_spec(Kronecker(kind="kronecker"))
    wide = TrainedModel(**{**row.__dict__, "architecture": Architecture(layers=1, hidden=32, heads=2, context=16)})
    with pytest.raises(ModelError, match=r"the start .*dense: its tensor transformer\.wte\.weight is \[32, 16\], not"):
        train_model(wide, corpus, tmp_path / "model", tmp_path / "work", start=tmp_path / "dense")
