"""Calibration one block at a time equals what the whole model gives at once, for every family."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenbounds.compression.calibration.calibrate import calibrate_model
from tokenbounds.compression.calibration.layers import matrices_of, of_use
from tokenbounds.compression.calibration.store import Calibration
from tokenbounds.compression.calibration.windows import pack_windows
from tokenbounds.config import CalibrationSpec
from tokenbounds.errors import CalibrationError, CorpusError
from tokenbounds.models.blockwise import BlockwiseModel
from tokenbounds.models.checkpoint import load_checkpoint, open_checkpoint
from torch.nn import functional

FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
SPEC = CalibrationSpec(model="m", corpus="c", tokens=128, context=16, batch_tokens=64)


@pytest.fixture(scope="module")
def calibrated(calibrate):
    """A function family -> checkpoint folder, opened calibration."""

    def make(family):
        directory, path = calibrate(family, SPEC)
        return directory, Calibration.open(path)

    return make


def at_once(model, windows, matrices):
    """Inputs and output gradients of all layers from one pass over the whole model."""
    inputs, gradients, handles = {}, {}, []
    for matrix in of_use(matrices, "linear", "head", "tied"):
        owner = "lm_head" if matrix.use != "linear" else matrix.name.rpartition(".")[0]

        def watch(module, arguments, output, name=matrix.name):
            inputs[name] = arguments[0].detach().flatten(0, -2)
            output.register_hook(lambda value: gradients.__setitem__(name, value.flatten(0, -2)))

        handles.append(model.get_submodule(owner).register_forward_hook(watch))
    logits = model(input_ids=torch.from_numpy(windows.inputs), use_cache=False).logits.flatten(0, 1)
    targets = torch.from_numpy(windows.targets).flatten()
    functional.cross_entropy(logits, targets, reduction="sum").backward()
    for handle in handles:
        handle.remove()
    return inputs, gradients, logits.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_blockwise_equals_all_at_once(calibrated, corpus, family):
    directory, calibration = calibrated(family)
    model, _ = load_checkpoint(directory)
    windows, matrices = pack_windows(corpus, 128, 16, 0), matrices_of(model)
    inputs, gradients, logits = at_once(model, windows, matrices)
    assert len(of_use(matrices, "linear")) == (8 if family == "gpt2" else 14)
    for matrix in of_use(matrices, "linear", "head", "tied"):
        x = inputs[matrix.name]
        assert np.allclose(calibration.moments(matrix), (x.T @ x / 128).numpy(), rtol=1e-3, atol=1e-5), matrix.name
        if matrix.use == "linear":
            expected = gradients[matrix.name].square().mean(0).numpy()
        else:
            p = torch.softmax(logits, -1)
            expected = (p * (1 - p)).mean(0).numpy()
        assert np.allclose(calibration.outputs(matrix), expected, rtol=1e-3, atol=1e-7), matrix.name
    losses = functional.cross_entropy(logits, torch.from_numpy(windows.targets).flatten())
    assert calibration.loss_bits == pytest.approx(float(losses) / np.log(2), rel=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tables_know_their_rows_and_gradients(calibrated, corpus, family):
    directory, calibration = calibrated(family)
    model, _ = load_checkpoint(directory)
    windows = pack_windows(corpus, 128, 16, 0)
    tables = of_use(matrices_of(model), "lookup", "tied")
    counts = np.bincount(windows.inputs.reshape(-1), minlength=48) / 128
    assert np.allclose(calibration.row_frequencies(tables[0]), counts)
    if family == "gpt2":
        assert calibration.row_frequencies(tables[1]).tolist() == [1 / 16] * 16 + [0.0] * 16
    embedded = model.get_input_embeddings()(torch.from_numpy(windows.inputs)).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, use_cache=False).logits.flatten(0, 1)
    functional.cross_entropy(logits, torch.from_numpy(windows.targets).flatten(), reduction="sum").backward()
    gradient = embedded.grad.flatten(0, 1)
    assert np.allclose(calibration.lookup_moments(), (gradient.T @ gradient / 128).numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_bfloat16_computes_in_it_and_comes_close(calibrated, corpus, tmp_path, family):
    directory, exact = calibrated(family)
    calibrate_model(directory, corpus, replace(SPEC, dtype="bfloat16"), tmp_path / "c")
    half = Calibration.open(tmp_path / "c")
    with BlockwiseModel(*open_checkpoint(directory), torch.device("cpu"), torch.bfloat16).block(0) as block:
        assert {parameter.dtype for parameter in block.parameters()} == {torch.bfloat16}
    assert half.loss_bits == pytest.approx(exact.loss_bits, rel=1e-2)
    for matrix in of_use(matrices_of(load_checkpoint(directory)[0]), "linear"):
        difference = half.outputs(matrix) - exact.outputs(matrix)
        assert np.linalg.norm(difference) < 0.05 * np.linalg.norm(exact.outputs(matrix)), matrix.name


def test_layers_that_share_inputs_share_moments_and_conv1d_is_seen_through(checkpoint):
    model, _ = load_checkpoint(checkpoint("llama"))
    groups = {matrix.name: matrix.group for matrix in matrices_of(model)}
    assert groups["model.layers.0.self_attn.v_proj.weight"] == groups["model.layers.0.self_attn.q_proj.weight"]
    assert groups["model.layers.0.self_attn.o_proj.weight"] != groups["model.layers.0.self_attn.q_proj.weight"]
    assert len(set(groups.values())) == 2 * 4 + 2
    model, _ = load_checkpoint(checkpoint("gpt2"))
    assert [matrix.transposed for matrix in matrices_of(model)] == [False, False] + 8 * [True]


def test_windows_pack_whole_documents_behind_the_start_token(corpus):
    windows = pack_windows(corpus, 96, 16, seed=3)
    stream, targets = windows.inputs.reshape(-1), windows.targets.reshape(-1)
    assert windows.inputs.shape == (6, 16)
    assert len(set(windows.documents)) == len(windows.documents)
    assert stream[0] == 1
    position = 0
    for number in windows.documents:
        document = corpus.document(number)[: len(stream) - position - 1]
        assert np.array_equal(stream[position + 1 : position + 1 + len(document)], document)
        position += 1 + len(document)
        if position < len(stream):
            assert stream[position] == 1
            assert targets[position - 1] == -100
    assert np.array_equal(targets[:-1][targets[:-1] != -100], stream[1:][targets[:-1] != -100])
    assert not np.array_equal(windows.inputs, pack_windows(corpus, 96, 16, seed=4).inputs)


def test_a_small_corpus_is_taken_whole_and_a_tiny_one_refused(corpus):
    windows = pack_windows(corpus, 10**6, 16, 0)
    assert sorted(windows.documents) == list(range(12))
    assert windows.tokens == (corpus.tokens + 12 - 1) // 16 * 16
    with pytest.raises(CalibrationError, match="fewer than one window"):
        pack_windows(corpus, 64, 4096, 0)


def test_the_record_says_on_what_it_was_calibrated(calibrated):
    record = calibrated("gpt2")[1].record
    assert record["tokens"] == 128
    assert record["corpus_sha256"] == "ab"
    assert len(record["documents"]) >= 3
    assert record["seed"] == 0


def test_results_are_reproducible(checkpoint, corpus, tmp_path):
    for name in "ab":
        calibrate_model(checkpoint("gpt2"), corpus, SPEC, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_calibrated_is_refused_by_name_and_leaves_nothing(checkpoint, corpus, tmp_path):
    low_rank = checkpoint("gpt2", parameterization={"kind": "lora", "rank": 2, "targets": ["attention"]})
    with pytest.raises(CalibrationError, match="'lora'"):
        calibrate_model(low_rank, corpus, SPEC, tmp_path / "c")
    with pytest.raises(CorpusError, match="but the model knows 40 tokens"):
        calibrate_model(checkpoint("gpt2", vocabulary_size=40), corpus, SPEC, tmp_path / "c")
    assert not list(tmp_path.iterdir())


def test_a_model_may_predict_more_tokens_than_the_tokenizer_knows(checkpoint, corpus, tmp_path):
    directory = checkpoint("gpt2", vocabulary_size=50)
    calibrate_model(directory, corpus, SPEC, tmp_path / "c")
    tables = [matrix for matrix in matrices_of(load_checkpoint(directory)[0]) if matrix.name.endswith("wte.weight")]
    frequencies = Calibration.open(tmp_path / "c").row_frequencies(tables[0])
    assert len(frequencies) == 50 and not frequencies[48:].any() and frequencies.sum() == pytest.approx(1, rel=1e-5)


def test_other_files_and_other_models_are_refused(calibrated, checkpoint, tmp_path):
    (tmp_path / "c").write_bytes(b"no")
    with pytest.raises(CalibrationError, match="Calibrate again"):
        Calibration.open(tmp_path / "c")
    llama, _ = load_checkpoint(checkpoint("llama"))
    with pytest.raises(CalibrationError, match="does not fit the model"):
        calibrated("gpt2")[1].outputs(matrices_of(llama)[1])


def test_fewer_tokens_may_go_backwards(checkpoint, corpus, tmp_path):
    directory = checkpoint("llama")
    rows = {"few": SPEC, "many": replace(SPEC, tokens=256), "both": replace(SPEC, tokens=256, sensitivity_tokens=128)}
    for name, spec in rows.items():
        calibrate_model(directory, corpus, spec, tmp_path / name)
    few, many, both = (Calibration.open(tmp_path / name) for name in rows)
    model, _ = load_checkpoint(directory)
    for matrix in of_use(matrices_of(model), "linear", "head"):
        assert np.allclose(both.moments(matrix), many.moments(matrix), rtol=1e-5), matrix.name
        assert np.allclose(both.outputs(matrix), few.outputs(matrix), rtol=1e-4, atol=1e-9), matrix.name
        assert not np.allclose(both.moments(matrix), few.moments(matrix), rtol=1e-2)
    assert both.record["sensitivity_tokens"] == 128 and both.loss_bits == pytest.approx(few.loss_bits)
    inputs, _ = both.windows()
    assert inputs.shape == (16, 16) and np.array_equal(inputs, pack_windows(corpus, 256, 16, 0).inputs)
