"""The whole way with real messages: a Markov chain and a tiny transformer, decoded, scored, certified, verified."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from certified_study import with_link
from json_certificates import certify_bound, read_certificate
from tokenbounds.certificates.verify import ALL_BLOCKS, verify_certificate
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import BoundsSpec, MarkovModel, MessageSpec
from tokenbounds.config.quantizers import CountsQuantizer, UniformQuantizer
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import CertificateError
from tokenbounds.models.build import build_model, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint
from tokenbounds.models.markov.counts import fit_markov
from tokenbounds.scores.scoring import score_message

SPEC = BoundsSpec(top_k=(1,), alphas=(0.1, 0.3), lambdas=8)


def encode_chain(folder: Path, corpus: Corpus, message: Path) -> None:
    fit_markov(MarkovModel(kind="markov", corpus="letters", order=1), corpus, folder)
    encode_model(
        folder, MessageSpec(model="m", quantizer=CountsQuantizer(kind="counts")), message, message.with_suffix(".json")
    )


def encode_transformer(folder: Path, corpus: Corpus, message: Path) -> None:
    config = {"n_embd": 8, "n_head": 2, "n_inner": 16, "n_layer": 1, "tie_word_embeddings": True}
    card = ModelCard("gpt2", config, vocabulary_size=256, start_id=0, context=32, parameterization={"kind": "dense"})
    model = build_model(card)
    initialize(model, seed=1)
    save_checkpoint(folder, model, card)
    spec = MessageSpec(model="m", quantizer=UniformQuantizer(kind="uniform"))
    encode_model(folder, spec, message, message.with_suffix(".json"))


@pytest.fixture(scope="module", params=[encode_chain, encode_transformer], ids=["chain", "transformer"])
def certified(request, study, tmp_path_factory):
    """A study whose scores come from the decoded message, and its certificate."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("real")
    real = replace(study, root=root, message="real")
    real._build_corpus()
    real._build_plan()
    inputs = real.inputs
    inputs.certified.message.parent.mkdir()
    request.param(root / "model", Corpus.open(inputs.corpus), inputs.certified.message)
    for shard, path in enumerate(inputs.certified.scores):
        score_message(inputs.certified.message, inputs.corpus, inputs.plan, shard, path)
    certify_bound("c", "tiny", inputs, SPEC, root / "certificates/c.json", model="m")
    return real


def test_it_verifies_and_scores_again(certified):
    path = certified.root / "certificates/c.json"
    for rescore in (5, ALL_BLOCKS):
        checks = {check.name: check.detail for check in verify_certificate(path, rescore=rescore, seed=3)}
        assert "seed 3" in checks["scored again"] and "tolerance" in checks["averages of rows"]
        assert ("rows made again" in checks) == (rescore == ALL_BLOCKS)
    assert "2,315 tokens" in checks["scored again"] and "understated by at most 0 " in checks["rows made again"]


def test_the_choice_of_blocks_is_unpredictable_unless_seeded(certified):
    path = certified.root / "certificates/c.json"
    seeded = {verify_certificate(path, rescore=2, seed=1)[-2].detail for _ in range(2)}
    free = {verify_certificate(path, rescore=2)[-2].detail for _ in range(2)}
    assert len(seeded) == 1 and len(free) == 2


INVENTED = {
    "nll_bits": lambda nll, rank: np.maximum(nll * 0.9, np.log2(rank)),
    "rank": lambda nll, rank: np.ones_like(rank),
}


@pytest.mark.parametrize(("column", "change"), INVENTED.items(), ids=INVENTED)
def test_invented_scores_do_not_survive_rescoring(certified, column, change, tmp_path):
    """Every hash matches and the numbers follow from the scores, but the message does not give them."""
    inputs = certified.inputs
    scores = tuple(tmp_path / path.name for path in inputs.certified.scores)
    for old, new in zip(inputs.certified.scores, scores, strict=True):
        table = pq.read_table(old)
        index = table.schema.get_field_index(column)
        field = table.schema.field(index)
        invented = change(table["nll_bits"].to_numpy(), table["rank"].to_numpy())
        pq.write_table(table.set_column(index, field, [pa.array(invented, field.type)]), new)
    certify_bound("c", "tiny", with_link(inputs, scores=scores), SPEC, tmp_path / "c.json", model="m")
    verify_certificate(tmp_path / "c.json")
    with pytest.raises(CertificateError, match="decoded message gives"):
        verify_certificate(tmp_path / "c.json", rescore=ALL_BLOCKS)


def test_a_message_that_does_not_decode_is_named(certified, tmp_path, monkeypatch):
    from tokenbounds.errors import MessageError

    def refuse(message):
        raise MessageError("no model in it")

    monkeypatch.setattr("tokenbounds.messages.counted.decode_counted", refuse)
    with pytest.raises(CertificateError, match=f"{certified.inputs.certified.message.name} does not decode"):
        verify_certificate(certified.root / "certificates/c.json")


def test_the_certificate_pays_for_every_bit(certified):
    certificate = read_certificate(certified.root / "certificates/c.json")
    assert certificate["message"]["size_bits"] == 8 * certified.inputs.certified.message.stat().st_size
    row = next(row for row in certificate["rows"] if row["bound"] == "azuma" and row["metric"] == "bpd")
    bits = pl.read_parquet(certified.inputs.certified.scores)["nll_bits"].to_numpy().astype(float)
    smoothed = -np.log2((1 - row["alpha"]) * 2.0**-bits + row["alpha"] / 256)
    assert row["empirical"] == pytest.approx(smoothed.mean(), rel=1e-9)
