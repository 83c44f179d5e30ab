"""Messages whose side information is a model: adapters over a base, and an unchanged base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from forged_messages import write_message
from fresh_decoder import digests
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import MessageSpec, parse_row
from tokenbounds.errors import MessageError, ModelError
from tokenbounds.messages.container import Part, read_message
from tokenbounds.messages.decode import decode_message, export_huggingface
from tokenbounds.messages.side_information import SideInformation
from tokenbounds.models.adapters import AdapterCard, attach_adapters, check_adapter
from tokenbounds.models.base import load_base
from tokenbounds.models.build import coded_parameters, initialize
from tokenbounds.models.checkpoint import save_checkpoint
from tokenbounds.models.identity import checkpoint_sha256
from transformers import AutoModelForCausalLM

FAMILIES = ("gpt2", "llama")
IDS = torch.arange(30).reshape(2, 15) % 64


def spec_of(kind, coder="adaptive", **training):
    quantizer = {"kind": kind, **({"straight_through": training} if training else {})}
    return parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": quantizer, "coder": coder}))


def finetuned(base: Path, folder: Path, rank: int = 1) -> Path:
    """A checkpoint of adapters that look trained."""
    model, card, sha256 = load_base(base)
    settings = check_adapter({"kind": "lora", "rank": rank, "targets": ["attention", "mlp"], "last_layers": 1})
    model = attach_adapters(model, settings)
    initialize(model, 4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in coded_parameters(model).values():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    save_checkpoint(folder, model, AdapterCard(sha256, settings, card.vocabulary_size, 16))
    return folder


@pytest.fixture(scope="session")
def study(checkpoint, tmp_path_factory):
    """A function family -> results folder with models/base, models/other, models/tuned and their messages."""

    def make(family):
        results = tmp_path_factory.mktemp(f"base-{family}")
        (results / "models").mkdir()
        shutil.copytree(checkpoint(family), results / "models" / "base")
        shutil.copytree(checkpoint("llama" if family == "gpt2" else "gpt2"), results / "models" / "other")
        tuned = finetuned(results / "models" / "base", results / "models" / "tuned")
        for kind in ("uniform", "codebook"):
            encode_model(tuned, spec_of(kind), results / "messages" / f"{kind}.tbm", results / f"{kind}.json")
        encode_model(
            results / "models" / "base",
            spec_of("reference"),
            results / "messages" / "reference.tbm",
            results / "r.json",
        )
        return results

    made = {family: make(family) for family in FAMILIES}
    return made.__getitem__


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["uniform", "codebook"])
def test_the_message_holds_the_adapters_only(study, family, kind):
    results = study(family)
    path = results / "messages" / f"{kind}.tbm"
    message, model = read_message(path), decode_message(path)
    assert SideInformation.of(message) == SideInformation(base=checkpoint_sha256(results / "models" / "base"))
    assert message.breakdown["side_information"] == 256
    assert set(message.header["model"]) == {"family", "parameterization", "vocabulary_size"}
    whole = sum(value.numel() for value in load_base(results / "models" / "base")[0].parameters())
    coded = sum(value.numel() for value in coded_parameters(model).values())
    assert coded < whole / 4
    assert message.breakdown["symbols"] < 8 * coded
    report = json.loads((results / f"{kind}.json").read_text())
    assert report["base"] == checkpoint_sha256(results / "models" / "base")


def test_a_fresh_process_decodes_the_same_bits_without_the_fine_tuned_checkpoints(study, tmp_path, decoded_afresh):
    for family in FAMILIES:
        for name in ("messages", "models/base", "models/other"):
            target = tmp_path / family / name
            target.mkdir(parents=True)
            for path in (study(family) / name).iterdir():
                (target / path.name).write_bytes(path.read_bytes())
    paths = sorted(tmp_path.glob("*/messages/*.tbm"))
    originals = [study(path.parts[-3]) / "messages" / path.name for path in paths]
    assert decoded_afresh(paths) == [digests(decode_message(path)) for path in originals]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reference_is_the_base_itself_for_a_few_bytes(study, family):
    results = study(family)
    path = results / "messages" / "reference.tbm"
    assert digests(decode_message(path)) == digests(load_base(results / "models" / "base")[0])
    assert read_message(path).size_bytes < 100


def test_the_base_may_be_any_layout_of_the_same_values(study, tmp_path):
    results = study("llama")
    path = results / "messages" / "uniform.tbm"
    export_huggingface(results / "messages" / "reference.tbm", tmp_path / "folder")
    model = decode_message(path.read_bytes(), [tmp_path / "folder"])
    assert digests(model) == digests(decode_message(path))
    export_huggingface(path, tmp_path / "tuned")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").eval()
    with torch.no_grad():
        assert torch.allclose(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits, atol=1e-5)
        assert not torch.allclose(load_base(tmp_path / "folder")[0](input_ids=IDS).logits, loaded(input_ids=IDS).logits)


def test_finetuning_of_quantized_adapters_lowers_the_loss(study, tmp_path, corpus):
    spec = spec_of("uniform", steps=30, batch_tokens=64, learning_rate=0.02, rate_weight=0.1)
    encode_model(study("gpt2") / "models" / "tuned", spec, tmp_path / "m.tbm", tmp_path / "m.json", corpus)
    history = json.loads((tmp_path / "m.json").read_text())["straight_through"]
    assert history["last_loss_bits"] < history["first_loss_bits"] - 0.1


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_missing_or_wrong_base_is_named(study, tmp_path):
    results = study("llama")
    path = results / "messages" / "uniform.tbm"
    alone = tmp_path / "messages" / "uniform.tbm"
    alone.parent.mkdir()
    alone.write_bytes(path.read_bytes())
    with pytest.raises(MessageError, match=r"uniform\.tbm: the base model .* was not found: no place"):
        decode_message(alone)
    with pytest.raises(MessageError, match="other holds"):
        decode_message(path, [results / "models" / "other"])
    with pytest.raises(MessageError, match="nowhere does not exist"):
        decode_message(path, [tmp_path / "nowhere"])
    with pytest.raises(MessageError, match="no place"):
        decode_message(path.read_bytes())


def test_a_base_with_one_changed_value_is_refused(study, tmp_path):
    results = study("llama")
    model, card, _ = load_base(results / "models" / "base")
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[5] += 1e-6
    save_checkpoint(tmp_path, model, card)
    with pytest.raises(MessageError, match="holds"):
        decode_message(results / "messages" / "uniform.tbm", [tmp_path])


def test_without_the_check_another_base_would_give_another_model(study, tmp_path, monkeypatch):
    """What the hash is for: the variant that skips it decodes, to something else."""
    results = study("llama")
    path = results / "messages" / "uniform.tbm"
    model, card, _ = load_base(results / "models" / "base")
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3)
    save_checkpoint(tmp_path, model, card)
    wanted = read_message(path).part("side_information").hex()
    monkeypatch.setattr("tokenbounds.models.base.hash_model", lambda *_: wanted)
    forged = decode_message(path, [tmp_path])
    monkeypatch.undo()
    with torch.no_grad():
        assert not torch.allclose(forged(input_ids=IDS).logits, decode_message(path)(input_ids=IDS).logits)


def rewritten(path, out, header=None, parts=None):
    message = read_message(path)
    return write_message(out, {**message.header, **(header or {})}, message.parts if parts is None else parts)


def test_a_forged_hash_is_refused(study, tmp_path):
    results = study("llama")
    path = results / "messages" / "uniform.tbm"
    parts = read_message(path).parts
    other = bytes.fromhex(checkpoint_sha256(results / "models" / "other"))
    for data in (bytes(32), other):
        forged = [Part("side_information", data) if part.kind == "side_information" else part for part in parts]
        rewritten(path, tmp_path / "f.tbm", parts=forged)
        with pytest.raises(MessageError, match=r"f\.tbm"):
            decode_message(tmp_path / "f.tbm", [results / "models" / "base", results / "models" / "other"])


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"family": "given", "vocabulary_size": 64}},
        {"model": {"family": "given", "vocabulary_size": 65, "parameterization": {"kind": "lora", "rank": 1}}},
        {"model": {"family": "given", "parameterization": {"kind": "lora", "rank": 1}}},
        {"model": {"family": "given", "vocabulary_size": True, "parameterization": {"kind": "lora"}}},
        {"model": {"family": "given", "vocabulary_size": 64, "parameterization": {"kind": "dense"}}},
        {"model": {"family": "given", "vocabulary_size": 64, "parameterization": []}},
        {"model": {"family": "given", "vocabulary_size": 64, "parameterization": {"kind": "lora", "rank": 1 << 17}}},
        {"model": {"family": "given", "vocabulary_size": 64, "config": {}}},
        {"model": {"family": "gpt2"}},
        {"quantizer": {"kind": "reference"}},
        {"quantizer": {"kind": "refinement", "factor": 3}},
        {"quantizer": {"kind": "codebook"}},
    ],
)
def test_hostile_headers_end_in_the_one_error(study, tmp_path, change):
    results = study("llama")
    rewritten(results / "messages" / "uniform.tbm", tmp_path / "h.tbm", header=change)
    with pytest.raises(MessageError, match=r"h\.tbm"):
        decode_message(tmp_path / "h.tbm", [results / "models" / "base"])


def test_adapters_too_large_for_their_message_are_refused_before_they_are_built(study, monkeypatch):
    monkeypatch.setattr("tokenbounds.messages.decode.CODED_PER_BYTE", 0)
    monkeypatch.setattr("tokenbounds.messages.decode.FREE_CODED", 200)
    with pytest.raises(MessageError, match="232 coded values; at most 200"):
        decode_message(study("llama") / "messages" / "uniform.tbm")


@pytest.mark.parametrize("data", [[], [b""], [bytes(31)], [bytes(64)], [bytes(32), bytes(32)]])
def test_parts_that_hold_no_single_hash_are_refused(study, tmp_path, data):
    results = study("llama")
    for name in ("uniform", "reference"):
        path = results / "messages" / f"{name}.tbm"
        kept = [part for part in read_message(path).parts if part.kind != "side_information"]
        rewritten(path, tmp_path / "p.tbm", parts=[*kept, *(Part("side_information", each) for each in data)])
        with pytest.raises(MessageError, match="hash"):
            decode_message(tmp_path / "p.tbm", [results / "models" / "base"])


def test_a_reference_with_values_and_a_model_that_is_not_dense_are_refused(study, tmp_path):
    results = study("llama")
    path = results / "messages" / "reference.tbm"
    rewritten(path, tmp_path / "v.tbm", parts=[*read_message(path).parts, Part("symbols", b"x")])
    with pytest.raises(MessageError, match="nothing else"):
        decode_message(tmp_path / "v.tbm", [results / "models" / "base"])
    with pytest.raises(ModelError):
        encode_model(results / "models" / "tuned", spec_of("reference"), tmp_path / "m.tbm", tmp_path / "m.json")
    assert not (tmp_path / "m.tbm").exists()
