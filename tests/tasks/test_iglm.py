"""IgLM, where a user has installed it: known losses of a known antibody. It is never needed, nor shipped."""

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from antibody_study import write_airr
from json_certificates import certify_bound
from tokenbounds.antibodies import iglm
from tokenbounds.antibodies.labels import Chain, TokenLabels
from tokenbounds.certificates.evidence import CertificateInputs, LinkInputs
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import (
    AirrSource,
    BoundsSpec,
    CorpusSpec,
    EvaluationSpec,
    FinetunedModel,
    IglmTokenizer,
    MessageSpec,
    PretrainedModel,
    Training,
)
from tokenbounds.config.quantizers import UniformQuantizer
from tokenbounds.corpus.annotations import Annotations
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.errors import CorpusError
from tokenbounds.files import read_json
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.pretrained.loading import import_pretrained, load_pretrained
from tokenbounds.models.training.finetune import finetune_model
from tokenbounds.report.page import write_certificate_page
from tokenbounds.scores.documents import score_documents
from tokenbounds.scores.plan import plan_corpus
from tokenbounds.scores.scoring import score_message
from tokenbounds.tasks.layouts import IglmLayout, layout_of

torch.set_num_threads(1)
TRASTUZUMAB = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDY"
    "WGQGTLVTVSS"
)
SMALL = PretrainedModel(kind="pretrained", package="iglm", subfolder="trained_models/IgLM-S", start_id=31)
FWR2, CDR3 = slice(33, 50), slice(96, 109)
installed = pytest.mark.skipif(importlib.util.find_spec("iglm") is None, reason="iglm is not installed")


@pytest.fixture(scope="module")
def small():
    return load_pretrained(SMALL)[0]


def losses(model, residues):
    """Bits of each residue, and of the end."""
    written = IglmLayout().write(residues)
    ((bits, _),) = score_documents(model, MemoryCorpus([written.tokens], 33, IglmLayout().start_id(Chain.HEAVY)))
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
    with pytest.raises(CorpusError, match="'X' is not a token of IgLM"):
        iglm.encode_residues("AXC")


def iglm_corpus(folder, **table):
    source = AirrSource(kind="airr", paths=(str(write_airr(folder / "a.tsv", **table)),))
    spec = CorpusSpec(source=source, tokenizer=IglmTokenizer(kind="iglm"), shards=1)
    tokenize_corpus(spec, "iglm", folder / "corpora" / "iglm")
    return folder / "corpora" / "iglm"


def test_a_light_chain_is_not_written_behind_the_heavy_token(tmp_path):
    source = AirrSource(kind="airr", paths=(str(write_airr(tmp_path / "a.tsv", families=1, members=1)),))
    spec = CorpusSpec(source=source, tokenizer=IglmTokenizer(kind="iglm", chain="light"), shards=1)
    with pytest.raises(CorpusError, match="is a heavy chain, and the tokenizer tells IgLM that it is light"):
        tokenize_corpus(spec, "iglm", tmp_path / "c")


def test_iglms_corpora_keep_every_label_behind_the_species(tmp_path):
    folder = iglm_corpus(tmp_path, families=2, members=2)
    corpus = Corpus.open(folder)
    assert (corpus.vocabulary_size, corpus.start_id) == (33, iglm.HEAVY_ID)
    annotations = Annotations.open(folder, corpus)
    for number in range(corpus.documents):
        tokens = [iglm.TOKENS[token] for token in corpus.document(number)]
        labels = TokenLabels(**annotations.document(number))
        assert (tokens[0], tokens[-1], len(labels)) == ("[HUMAN]", "[SEP]", len(tokens))
        assert labels.region[0] == labels.region[-1] == 0
        fwr4 = "".join(token for token, region in zip(tokens, labels.region, strict=True) if region == 7)
        assert fwr4 == "WGQGTLVTVSS"


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder of results with a held-out certificate of IgLM-S, and one of its fine-tune, on invented sequences."""
    root = tmp_path_factory.mktemp("iglm")
    corpus, plan = iglm_corpus(root, families=6, members=2), root / "plan.parquet"
    plan_corpus(corpus, EvaluationSpec(context=256, shards=1), plan)
    import_pretrained(SMALL, root / "models" / "base")
    training = Training(steps=2, batch_tokens=256, learning_rate=1e-3)
    row = FinetunedModel("finetuned", "base", "iglm", training=training)
    finetune_model(row, root / "models" / "base", Corpus.open(corpus), root / "models" / "tuned", root / "work")
    with pytest.MonkeyPatch.context() as patch:
        # General-purpose compressors take a minute for the comparison in the message's report.
        patch.setattr("tokenbounds.compression.encode._comparison", lambda *_: {})
        for name in ("base", "tuned"):
            spec = MessageSpec(model=name, quantizer=UniformQuantizer(kind="uniform", step_ratio=0.5))
            out = root / "messages" / f"{name}.tbm"
            encode_model(root / "models" / name, spec, out, out.with_suffix(".json"))
    for name, subsets in (("base", ("residue", "region")), ("tuned", ())):
        message, scores = root / "messages" / f"{name}.tbm", root / "scores" / f"{name}.parquet"
        score_message(message, corpus, plan, 0, scores)
        inputs = CertificateInputs(
            corpus,
            plan,
            (LinkInputs(message, (scores,)),),
            held_out=() if name == "base" else None,
            held_out_because="Published in 2023, drawn on 2025-01-31." if name == "base" else "",
        )
        bounds = BoundsSpec(top_k=(1,), alphas=(0.1,), lambdas=2, bounds=("betting",), subsets=subsets)
        certify_bound(name, "iglm", inputs, bounds, root / "certificates" / f"{name}.json", model=name)
    return root


@installed
def test_a_held_out_certificate_names_its_assumption_on_every_page(certificates):
    path = certificates / "certificates" / "base.json"
    assert verify_certificate(path)
    content = read_json(path)
    assert content["prior"] == {
        "kind": "held_out",
        "trained_on": [],
        "because": "Published in 2023, drawn on 2025-01-31.",
    }
    assert {(subset["column"], subset["label"]) for subset in content["subsets"]} >= {("region", "CDR3")}
    assumption = "trained on nothing that depends on it. The certificate is valid only if this statement is true."
    assert any(assumption in sentence for sentence in content["assumptions"])
    write_certificate_page(path, certificates / "page.html")
    assert assumption in (certificates / "page.html").read_text(encoding="utf-8")


@installed
def test_a_fine_tune_is_a_small_message_over_it(certificates):
    path = certificates / "certificates" / "tuned.json"
    assert verify_certificate(path)
    content = read_json(path)
    assert content["prior"]["kind"] == "message"
    assert any("Base fixed before and independently of the corpus: the base model 'base'" in sentence
               for sentence in content["assumptions"])  # fmt: skip
    small, whole = (certificates / "messages" / f"{name}.tbm" for name in ("tuned", "base"))
    assert small.stat().st_size < whole.stat().st_size / 20
    assert isinstance(layout_of(decode_message(small)), IglmLayout)
