"""The vocabulary: 29 tokens whose numbers never change, and text that comes back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenbounds.antibodies.vocabulary import (
    AMINO_ACIDS,
    SPECIAL_TOKENS,
    TOKENS,
    decode_ids,
    encode_text,
    is_amino_acid,
)
from tokenbounds.config import AntibodyTokenizer
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.errors import CorpusError


def test_numbers_of_tokens_are_fixed():
    assert len(TOKENS) == 29 and len(set(TOKENS)) == 29
    assert TOKENS[:8] == ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "[ClSep]", "[AbHC]", "[AbLC]")
    assert "".join(TOKENS[8:28]) == AMINO_ACIDS == "ACDEFGHIKLMNPQRSTVWY" and TOKENS[28] == "-"
    tokenizer = load_tokenizer(AntibodyTokenizer(kind="antibody"))
    assert (tokenizer.vocabulary_size, tokenizer.start_id) == (29, 1)
    assert tokenizer.sha256 == "9414607544ec5f040cdba4b90727bf1693198ac65d03d69e8355a9cc940698f6"


def test_text_becomes_the_tokens_it_names():
    assert encode_text("AC-[ClSep]Y[UNK]").tolist() == [8, 9, 28, 5, 27, 3]
    assert encode_text("").tolist() == []
    assert is_amino_acid(encode_text("AC-[ClSep]Y[UNK]")).tolist() == [True, True, False, False, True, False]


@given(st.lists(st.integers(0, 28), max_size=50))
def test_any_tokens_come_back_from_their_text(ids):
    assert encode_text(decode_ids(ids)).tolist() == ids


@pytest.mark.parametrize("text", ["AXC", "acd", "[CLs]", "[", "A[CLS", "A C", "AÄ", "A\n"])
def test_other_text_is_refused(text):
    with pytest.raises(CorpusError, match="antibody vocabulary"):
        encode_text(text)


@pytest.mark.parametrize("ids", [[29], [-1], np.array([300])])
def test_other_numbers_are_refused(ids):
    with pytest.raises(CorpusError, match="0 to 28"):
        decode_ids(ids)


def test_no_special_token_can_be_read_as_residues():
    assert not set("".join(SPECIAL_TOKENS)) & {"-"} and all(
        token[0] == "[" and token[-1] == "]" for token in SPECIAL_TOKENS
    )
