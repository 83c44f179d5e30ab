"""Torch archives are read as data: the same tensors as torch gives, or a refusal; nothing in them ever runs."""

import collections
import io
import pickle
import zipfile

import pytest
import torch
from tokenbounds.config import PretrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.pretrained import loading
from tokenbounds.models.pretrained.torch_archive import read_tensors
from transformers import GPT2Config, GPT2LMHeadModel

TENSORS = {
    "ones": torch.ones(3),
    "matrix": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
    "double": torch.tensor([[0.25]], dtype=torch.float64),
    "mask": torch.tensor([True, False, True]),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
}


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def save(value, path):
    torch.save(value, path)
    return path


def replace_program(path, program):
    """Write the archive again with another pickle program."""
    with zipfile.ZipFile(path) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in contents.items():
            archive.writestr(name, program if name.endswith("data.pkl") else data)
    return path


def test_tensors_are_those_that_torch_reads(tmp_path):
    found = read_tensors(save(collections.OrderedDict(TENSORS), tmp_path / "weights.bin"))
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        wanted = tensor.float() if tensor.is_floating_point() else tensor.to(found[name].dtype)
        assert torch.equal(found[name], wanted), name


def test_tensors_that_share_a_storage_are_read_from_their_places(tmp_path):
    whole = torch.arange(10.0)
    found = read_tensors(save({"all": whole, "end": whole[6:]}, tmp_path / "weights.bin"))
    assert torch.equal(found["end"], whole[6:])


def test_the_state_of_a_module_is_read(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    found = read_tensors(save(module.state_dict(), tmp_path / "weights.bin"))
    assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())


def test_a_transposed_view_is_refused(tmp_path):
    with pytest.raises(ModelError, match="a view of storage"):
        read_tensors(save({"view": torch.arange(6.0).reshape(2, 3).T}, tmp_path / "weights.bin"))


@pytest.mark.parametrize("wrap", [lambda trap: trap, lambda trap: {"a": trap}, lambda trap: {"a": [trap]}])
def test_nothing_in_an_archive_runs(tmp_path, wrap):
    path = save({"a": torch.ones(1)}, tmp_path / "weights.bin")
    replace_program(path, pickle.dumps(wrap(Trap(tmp_path / "ran")), protocol=2))
    with pytest.raises(ModelError, match="more than named tensors"):
        read_tensors(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [{"a": 1}, {1: torch.ones(1)}, [torch.ones(1)], torch.ones(1), {"a": {"b": 2}}])
def test_anything_but_named_tensors_is_refused(tmp_path, value):
    with pytest.raises(ModelError, match="more than named tensors"):
        read_tensors(save(value, tmp_path / "weights.bin"))


def test_damage_gives_one_clear_error(tmp_path):
    path = save({"a": torch.arange(4.0)}, tmp_path / "weights.bin")
    with zipfile.ZipFile(path) as archive:
        program = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    for place in range(len(program)):
        damaged = program[:place] + bytes([program[place] ^ 0x15]) + program[place + 1 :]
        for version in (damaged, program[:place]):
            try:
                read_tensors(replace_program(path, version))
            except ModelError as error:
                assert str(path) in str(error)
    path.write_bytes(b"no archive")
    with pytest.raises(ModelError, match="cannot be read as a torch archive"):
        read_tensors(path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a GPT-2 folder whose weights are a torch archive."""
    folder = tmp_path / "withmodel" / "trained" / "small"
    folder.mkdir(parents=True)
    (tmp_path / "withmodel" / "__init__.py").write_text("raise ImportError('a package is found, not imported')")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=33, n_embd=16, n_layer=2, n_head=4, n_positions=40, n_inner=64, initializer_range=0.5
    )
    config.bos_token_id = 5
    model = GPT2LMHeadModel(config).eval()
    config.save_pretrained(folder)
    # Old checkpoints hold GPT-2's constant masks next to its parameters.
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8) for layer in range(2)}
    torch.save({**model.state_dict(), **masks}, folder / "pytorch_model.bin")
    monkeypatch.syspath_prepend(tmp_path)
    return model


def test_a_model_in_an_installed_package_is_loaded(package):
    spec = PretrainedModel(kind="pretrained", package="withmodel", subfolder="trained/small")
    model, card = loading.load_pretrained(spec)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.allclose(model(input_ids=tokens).logits, package(input_ids=tokens).logits, atol=1e-5)
    assert card.vocabulary_size == 33
    assert card.start_id == 5
    assert sum(value.numel() for value in coded_parameters(model).values()) == sum(
        value.numel() for value in package.parameters()
    )


def test_a_wrong_subfolder_names_the_right_ones(package):
    spec = PretrainedModel(kind="pretrained", package="withmodel", subfolder="trained/large")
    with pytest.raises(ModelError, match="trained/small"):
        loading.load_pretrained(spec)


def test_weights_that_do_not_fit_are_refused(package, tmp_path):
    path = tmp_path / "withmodel" / "trained" / "small" / "pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    tensors.pop("transformer.wpe.weight")
    torch.save(tensors, path)
    spec = PretrainedModel(kind="pretrained", package="withmodel", subfolder="trained/small")
    with pytest.raises(ModelError, match="do not fit"):
        loading.load_pretrained(spec)


def test_an_archive_may_be_read_from_memory_sized_files_only(tmp_path):
    path = tmp_path / "weights.bin"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 25))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ModelError, match="too large"):
        read_tensors(path)
