"""Models written as GGUF: what transformers loads from the file predicts what the model does."""

import pytest
import torch
from small_checkpoints import CONFIGS
from tokenbounds.errors import ModelError
from tokenbounds.models.build import build_model, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.models.pretrained import gguf_export
from tokenbounds.models.pretrained.gguf_export import write_gguf
from tokenbounds.models.pretrained.gguf_metadata import FREQUENCIES, GgufFile
from transformers import AutoModelForCausalLM, LlamaConfig

pytest.importorskip("gguf")
MORE = {"llama": {"tie_word_embeddings": False}, "qwen2": {"tie_word_embeddings": True}, "qwen3": {"head_dim": 8}}
IDS = torch.arange(24).reshape(2, 12)


def model_of(family, **more):
    config = CONFIGS[family] | MORE.get(family, {}) | more
    model = build_model(ModelCard(family=family, config=config, vocabulary_size=48, start_id=1, context=32))
    initialize(model, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # norms and biases that are not trivial
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def logits_of(model):
    with torch.no_grad():
        return model(IDS).logits


def load(folder, model):
    # The configuration is given: transformers counts the tokens of a file's tokenizer, which this one has not.
    config = model.config
    if config.model_type == "mistral":  # which the file calls a LLaMA
        config = LlamaConfig(**{key: value for key, value in config.to_dict().items() if key != "model_type"})
    options = {"gguf_file": "m.gguf", "config": config, "dtype": torch.float32}
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


@pytest.mark.parametrize("family", CONFIGS)
def test_transformers_loads_what_was_written(family, tmp_path):
    model = model_of(family)
    write_gguf(model, tmp_path / "m.gguf")
    loaded = load(tmp_path, model)
    assert torch.allclose(logits_of(loaded), logits_of(model), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_layout_that_is_not_llama_cpps_is_noticed(tmp_path, monkeypatch):
    model = model_of("llama")
    monkeypatch.setattr(gguf_export, "_INTERLEAVED", ())
    write_gguf(model, tmp_path / "m.gguf")
    loaded = load(tmp_path, model)
    assert not torch.allclose(logits_of(loaded), logits_of(model), atol=1e-3)


def test_llama_3s_rotary_frequencies_are_in_the_file(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    write_gguf(model_of("llama", rope_parameters=rope), tmp_path / "m.gguf")
    found = GgufFile.open(tmp_path / "m.gguf")
    assert FREQUENCIES in found.tensors and found.config()["rope_parameters"] == rope


@pytest.mark.parametrize(
    ("family", "more", "named"),
    [
        ("mistral", {"sliding_window": 8}, "sliding window"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "linear"),
    ],
)
def test_what_the_form_cannot_say_is_refused_and_nothing_is_written(family, more, named, tmp_path):
    with pytest.raises(ModelError, match=named):
        write_gguf(model_of(family, **more), tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())
