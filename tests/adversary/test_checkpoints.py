"""Checkpoints of strangers are loaded or refused in one line, whatever their configuration and their files claim."""

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from tokenbounds.config import PretrainedModel, TransformersTokenizer
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.errors import CorpusError, ModelError
from tokenbounds.models.pretrained.loading import load_pretrained
from tokenbounds.models.pretrained.torch_archive import read_tensors
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

pytestmark = pytest.mark.adversary
HUGE = 10**9


def load(folder, **more):
    return load_pretrained(PretrainedModel(kind="pretrained", name=str(folder), **more))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of a small GPT-2 and a small Qwen2."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "bos_token_id": 0, "eos_token_id": 0}
    gpt2 = GPT2Config(n_layer=1, n_embd=8, n_head=2, n_positions=16, **sizes)
    qwen2 = Qwen2Config(
        num_hidden_layers=1, hidden_size=8, num_attention_heads=2, num_key_value_heads=2, intermediate_size=8,
        max_position_embeddings=16, **sizes,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, model in {"gpt2": GPT2LMHeadModel(gpt2), "qwen2": Qwen2ForCausalLM(qwen2)}.items():
        model.save_pretrained(folder / name)
    return folder


@pytest.fixture
def changed(checkpoints, tmp_path):
    """A function (family, changes of the configuration) -> a copy that is so configured; None removes a key."""

    def change(family, **changes):
        config = {**json.loads((checkpoints / family / "config.json").read_text()), **changes}
        (tmp_path / "c").mkdir(exist_ok=True)
        kept = {key: value for key, value in config.items() if value is not None}
        (tmp_path / "c/config.json").write_text(json.dumps(kept))
        weights = tmp_path / "c/model.safetensors"
        weights.unlink(missing_ok=True)
        os.link(checkpoints / family / "model.safetensors", weights)
        return tmp_path / "c"

    return change


def test_the_checkpoints_are_read(changed):
    for family in ("gpt2", "qwen2"):
        assert load(changed(family))[1].family == family


TYPES = ["x", 1.5, [], {}, True, -1, 0, HUGE, 10**30]


@pytest.mark.parametrize("key", ["n_layer", "n_embd", "n_head", "n_positions", "vocab_size"])
def test_sizes_that_the_files_do_not_have_are_refused(changed, key):
    for value in TYPES:
        with pytest.raises(ModelError):
            load(changed("gpt2", **{key: value}))


def test_layers_without_end_make_no_list(changed):
    with pytest.raises(ModelError, match="num_hidden_layers = 1,000,000,000; at most"):
        load(changed("qwen2", num_hidden_layers=HUGE, layer_types=None))
    with pytest.raises(ModelError, match="num_labels"):
        load(changed("gpt2", num_labels=HUGE, id2label=None))


ODD = {
    "dtype": ["float17", [], "torch.float32", "load"],
    "quantization_config": [
        [1],
        "gptq",
        3,
        True,
        {"quant_method": 7},
        {"quant_method": ["gptq"]},
        {"quant_method": {}},
    ],
    "quip_params": ["x", 3, {"codebook": 7}],
    "rope_parameters": [
        [],
        "x",
        3,
        {"rope_type": []},
        {"rope_type": "linear"},
        {"rope_type": "x"},
        {"rope_theta": "x"},
    ],
    "model_type": [[], {}, 3, "x" * 5000, "qwen2\x00"],
    "hidden_act": [3, [], "../x"],
    "rms_norm_eps": ["x", []],
    "pad_token_id": ["x", [], 10**30],
    "layer_types": ["x", 3, [3], [[]]],
    "id2label": ["x", 3],
    "tie_word_embeddings": ["x", []],
}


@pytest.mark.parametrize("key", ODD)
def test_values_of_other_types_are_refused(changed, key):
    for value in ODD[key]:
        with pytest.raises(ModelError) as refused:
            load(changed("qwen2", **{key: value}))
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "NaN", "{", ""])
def test_configurations_that_are_none_are_refused(changed, text):
    folder = changed("gpt2")
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError):
        load(folder)


def test_names_that_no_file_can_have_are_refused(tmp_path):
    for name in ("x" * 5000, str(tmp_path / ("y" * 300)), "a\0b"):
        with pytest.raises(ModelError):
            load(name)
        with pytest.raises(CorpusError):
            load_tokenizer(TransformersTokenizer(kind="transformers", name=name))
    for name in ("z" * 300, "z\0"):
        with pytest.raises(ModelError, match="can name no file"):
            load(tmp_path, gguf_file=name)


def test_a_pipe_in_place_of_weights_is_not_waited_for(changed):
    folder = changed("gpt2")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors is no file"):
        load(folder)


# --- GGUF -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"", b"x" * 300, b"llama\0", b"\xff\xfe", b"bert", b"../x", 7, [7]])
def test_odd_architectures_of_gguf_files_are_refused(tmp_path, name):
    pytest.importorskip("gguf")
    key = b"general.architecture"
    if isinstance(name, bytes):
        value = struct.pack("<IQ", 8, len(name)) + name
    else:
        value = struct.pack("<II", 4, 7) if name == 7 else struct.pack("<IIQI", 9, 4, 1, 7)
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key + value
    (tmp_path / "m.gguf").write_bytes(head + bytes(64))
    with pytest.raises(ModelError):
        load(tmp_path, gguf_file="m.gguf")


@pytest.mark.parametrize("counts", [(2**62, 1), (0, 2**62), (2**62, 2**62)])
def test_counts_of_gguf_files_are_bounded_by_their_size(tmp_path, counts):
    pytest.importorskip("gguf")
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + bytes(256))
    with pytest.raises(ModelError):
        load(tmp_path, gguf_file="m.gguf")


# --- tokenizers -------------------------------------------------------------------------------------------------------


def tokenizer(folder, vocabulary, **model):
    """A tokenizer of whole words whose file says what it is told."""
    folder.mkdir(exist_ok=True)
    content = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "normalizer": None,
               "post_processor": None, "decoder": None, "truncation": None, "padding": None,
               "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a", **model}}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "a", "eos_token": "a"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(TransformersTokenizer(kind="transformers", name=str(folder)))


def test_numbers_of_tokens_beyond_the_vocabulary_are_refused(tmp_path):
    assert tokenizer(tmp_path / "t", {"a": 0, "b": 70}).vocabulary_size == 71  # some numbers are left out
    for number in (10**6, 2**32 - 1):
        with pytest.raises(CorpusError, match=f"has 2 tokens and numbers one {number:,}"):
            tokenizer(tmp_path / "t", {"a": 0, "b": number})
    for number in (2**32, -1, 1.5, "x", None):
        with pytest.raises(CorpusError, match="cannot load tokenizer"):
            tokenizer(tmp_path / "t", {"a": 0, "b": number})


def test_a_text_that_a_tokenizer_cannot_encode_is_no_traceback(tmp_path):
    broken = tokenizer(tmp_path / "t", {"a": 0}, unk_token="none")
    assert broken.encode(["a a"])[0].tolist() == [0, 0]
    with pytest.raises(CorpusError, match="cannot encode a text"):
        broken.encode(["b"])


# --- torch archives ---------------------------------------------------------------------------------------------------


def archive(path, program, storages=(), **sizes):
    """An archive of a pickle program and of storages, bytes by name; `sizes` overwrites what the directory says."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", program)
        for key, data in dict(storages).items():
            file.writestr(f"a/data/{key}", data)
        for info in file.infolist():
            if "/data/" in info.filename:
                for name, value in sizes.items():
                    setattr(info, name, value)
    return path


def program_of(tensors):
    """The program of float32 tensors, (storage, size of the storage, offset, shape) by name, as torch writes it."""
    text = b"\x80\x02}("
    for name, (key, size, offset, shape) in tensors.items():
        stride = [int(np.prod(shape[place + 1 :])) for place in range(len(shape))]
        storage = (
            b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(key) + _text("cpu") + _number(size) + b"tQ"
        )
        lists = b"".join(b"(" + b"".join(map(_number, numbers)) + b"t" for numbers in (shape, stride))
        rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
        hooks = b"\x89ccollections\nOrderedDict\n)R"
        text += _text(name) + rebuild + b"(" + storage + _number(offset) + lists + hooks + b"tR"
    return text + b"u."


def _text(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _number(value):
    data = pickle.dumps(value, 2)[2:-1]
    return data if data[:1] in b"JKM" else b"\x8a" + bytes([9]) + int(value).to_bytes(9, "little", signed=True)


def test_an_honest_archive_of_the_same_form_is_read(tmp_path):
    values = np.arange(6, dtype="<f4")
    tensors = {"w": ("0", 6, 0, [2, 3]), "tied": ("0", 6, 0, [2, 3]), "b": ("0", 6, 4, [2])}
    found = read_tensors(archive(tmp_path / "a", program_of(tensors), {"0": values.tobytes()}))
    assert list(found) == ["w", "tied", "b"]
    assert found["w"].tolist() == found["tied"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["b"].tolist() == [4, 5]


def test_a_storage_shared_without_end_is_refused(tmp_path):
    tensors = {f"w{number}": ("0", 1 << 16, 0, [1 << 16]) for number in range(1000)}
    path = archive(tmp_path / "a", program_of(tensors), {"0": bytes(4 << 16)})
    with pytest.raises(ModelError, match="tensors of 262,144,000 bytes"):
        read_tensors(path)


@pytest.mark.parametrize("size", [0, 3, 1 << 40])
@pytest.mark.parametrize("member", ["file_size", "compress_size"])
def test_sizes_of_members_that_lie_are_refused(tmp_path, size, member):
    for claimed in (6, size // 4):
        path = tmp_path / f"{claimed}"
        archive(path, program_of({"w": ("0", claimed, 0, [claimed])}), {"0": bytes(24)}, **{member: size})
        with pytest.raises(ModelError):
            read_tensors(path)


@pytest.mark.parametrize("repeated", [b"}", b"(", b")", b"}q\x00", b"K\x01"])
def test_archives_of_empty_values_are_refused(tmp_path, repeated):
    path = archive(tmp_path / "a", b"\x80\x02" + repeated * 10**6 + b".")
    with pytest.raises(ModelError, match="too many values"):
        read_tensors(path)


def test_a_damaged_program_is_refused(tmp_path):
    torch.save(OrderedDict(w=torch.ones(300)), tmp_path / "torch")
    with (
        zipfile.ZipFile(tmp_path / "torch") as made,
        zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as file,
    ):
        for info in made.infolist():
            file.writestr(info.filename, made.read(info), zipfile.ZIP_DEFLATED if "pkl" in info.filename else None)
    data = (tmp_path / "a").read_bytes()
    for place in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[place] ^= 0x55
        (tmp_path / "a").write_bytes(bytes(damaged))
        try:
            read_tensors(tmp_path / "a")
        except ModelError as error:
            assert "\n" not in str(error)
