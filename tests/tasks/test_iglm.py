"""IgLM, where a user has installed it: known losses of a known antibody. It is never needed, nor shipped."""

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenbounds.antibodies import iglm
from tokenbounds.antibodies.labels import Chain
from tokenbounds.config import PretrainedModel
from tokenbounds.errors import CorpusError
from tokenbounds.tasks.layouts import IglmLayout
from tokenbounds.tasks.predictors import score_documents

torch.set_num_threads(1)
TRASTUZUMAB = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDY"
    "WGQGTLVTVSS"
)
FWR2, CDR3 = slice(33, 50), slice(96, 109)
installed = pytest.mark.skipif(importlib.util.find_spec("iglm") is None, reason="iglm is not installed")


@pytest.fixture(scope="module")
def small():
    from tokenbounds.models.loading import load_pretrained

    spec = PretrainedModel(kind="pretrained", package="iglm", subfolder="trained_models/IgLM-S")
    return load_pretrained(spec)[0]


def losses(model, residues):
    """Bits of each residue, and of the end."""
    written = IglmLayout().write(residues)
    ((bits, _),) = score_documents(model, [written.tokens], IglmLayout().start_id(Chain.HEAVY))
    return bits[1:]


@installed
def test_trastuzumab_costs_what_is_known(small):
    assert losses(small, TRASTUZUMAB).mean() == pytest.approx(1.38, abs=0.02)


@installed
def test_its_residues_in_another_order_cost_far_more(small):
    shuffled = list(TRASTUZUMAB)
    random.Random(0).shuffle(shuffled)
    assert losses(small, "".join(shuffled)).mean() == pytest.approx(5.0, abs=0.4)


@installed
def test_cdr3_is_several_times_harder_than_fwr2(small):
    bits = losses(small, TRASTUZUMAB)
    assert TRASTUZUMAB[FWR2] == "IHWVRQAPGKGLEWVAR"
    assert TRASTUZUMAB[CDR3] == "SRWGGDGFYAMDY"
    assert bits[CDR3].mean() > 3 * bits[FWR2].mean()


@installed
def test_the_vocabulary_is_the_packages(small):
    folder = importlib.util.find_spec("iglm").submodule_search_locations[0]
    assert tuple((Path(folder) / "trained_models" / "vocab.txt").read_text().split()) == iglm.TOKENS
    assert small.config.vocab_size == len(iglm.TOKENS)


def test_residues_are_encoded_by_letter():
    assert [iglm.TOKENS[token] for token in iglm.encode_residues("ACY")] == ["A", "C", "Y"]
    assert np.array_equal(iglm.encode_residues(iglm.RESIDUES), iglm.RESIDUE_IDS)
    with pytest.raises(CorpusError, match="'X' is no token of IgLM"):
        iglm.encode_residues("AXC")


def test_iglms_corpora_keep_every_label_behind_the_species(study, tmp_path):
    from antibody_study import write_airr
    from tokenbounds.config import AirrSource, CorpusSpec, IglmTokenizer
    from tokenbounds.corpus.annotations import Annotations
    from tokenbounds.corpus.reader import Corpus
    from tokenbounds.corpus.shards import tokenize_corpus

    source = AirrSource(kind="airr", paths=(str(write_airr(tmp_path / "a.tsv", families=2, members=2)),))
    spec = CorpusSpec(source=source, tokenizer=IglmTokenizer(kind="iglm"), shards=1)
    tokenize_corpus(spec, "iglm", tmp_path / "corpus")
    corpus = Corpus.open(tmp_path / "corpus")
    assert (corpus.vocabulary_size, corpus.start_id) == (33, iglm.HEAVY_ID)
    annotations = Annotations.open(tmp_path / "corpus", corpus)
    for number in range(corpus.documents):
        tokens = [iglm.TOKENS[token] for token in corpus.document(number)]
        labels = annotations.document(number)
        assert (tokens[0], tokens[-1], len(labels)) == ("[HUMAN]", "[SEP]", len(tokens))
        assert labels.region[0] == labels.region[-1] == 0
        fwr4 = "".join(token for token, region in zip(tokens, labels.region, strict=True) if region == 7)
        assert fwr4 == "WGQGTLVTVSS"
