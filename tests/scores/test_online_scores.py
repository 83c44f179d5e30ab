"""An online reference from its row to a verified certificate, alone and below a Markov chain."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenbounds.certificates.certify import certify_bound
from tokenbounds.certificates.evidence import CertificateInputs, LinkInputs
from tokenbounds.certificates.sentence import state_result
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import BoundsSpec, CorpusSpec, EvaluationSpec, MarkovModel, MessageSpec, TextSource, parse_study
from tokenbounds.config.quantizers import CountsQuantizer, OnlineQuantizer
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.errors import CertificateError, ConfigError, MessageError, ScoreError
from tokenbounds.messages.container import Part, read_message, render_message
from tokenbounds.messages.decode import decode_message
from tokenbounds.models.markov.counts import fit_markov
from tokenbounds.models.online.card import OnlineCard, name_online
from tokenbounds.models.online.mixing import ByteMixer
from tokenbounds.report.records import competes
from tokenbounds.scores.plan import plan_corpus
from tokenbounds.scores.plan_file import read_plan
from tokenbounds.scores.scoring import score_message
from tokenbounds.scores.seeds import derive_seed

BITS = 14


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Twelve documents that repeat each other's lines; a message that names a reference, one that holds a chain."""
    folder = tmp_path_factory.mktemp("online")
    lines = [f"line {number} of the tale says {number * 7919 % 1000}\n" for number in range(40)]
    generator = np.random.default_rng(0)
    (folder / "texts").mkdir()
    for number in range(12):
        (folder / f"texts/{number:02d}.txt").write_text("".join(generator.choice(lines, 60)))
    source = TextSource(kind="text", paths=(str(folder / "texts"),))
    tokenize_corpus(CorpusSpec(source=source, shards=2), "tale", folder / "corpus")
    for name, card in (("online", OnlineCard(BITS)), ("grams", OnlineCard(BITS, 300, 3))):
        (folder / name).mkdir()
        name_online(card, folder / f"{name}/card.json")
        spec = MessageSpec(model=name, quantizer=OnlineQuantizer(kind="no_values"))
        encode_model(folder / name, spec, folder / f"{name}.tbm", folder / f"{name}.json")
    fit_markov(MarkovModel(kind="markov", corpus="tale", order=1), Corpus.open(folder / "corpus"), folder / "chain")
    spec = MessageSpec(model="chain", quantizer=CountsQuantizer(kind="counts", threshold=1))
    encode_model(folder / "chain", spec, folder / "chain.tbm", folder / "chain.json")
    plan_corpus(folder / "corpus", EvaluationSpec(context=64, shards=2), folder / "plan.parquet")
    return folder


def score(study, message, plan="plan", shards=2):
    paths = tuple(study / f"{message}-{plan}-{shard}.parquet" for shard in range(shards))
    for shard, path in enumerate(paths):
        score_message(study / f"{message}.tbm", study / "corpus", study / f"{plan}.parquet", shard, path)
    return LinkInputs(study / f"{message}.tbm", paths)


@pytest.fixture(scope="module")
def links(study):
    return {message: score(study, message) for message in ("online", "chain")}


def read(paths):
    return pa.concat_tables(
        [pq.read_table(path, columns=["document", "position", "nll_bits", "rank"]) for path in paths]
    )


def certify(study, name, links, plan="plan", **settings):
    bounds = BoundsSpec(top_k=(1,), alphas=(0.001, 0.1), lambdas=8, **settings)
    inputs = CertificateInputs(study / "corpus", study / f"{plan}.parquet", tuple(links))
    return certify_bound(name, "tale", inputs, bounds, study / f"{name}.json", model=name)


def test_a_message_names_the_reference_and_holds_nothing(study):
    assert decode_message(study / "online.tbm") == OnlineCard(BITS)
    assert (study / "online.tbm").stat().st_size < 250
    assert decode_message(study / "grams.tbm") == OnlineCard(BITS, 300, 3)


def test_shards_hold_what_one_pass_over_the_corpus_says(study, links):
    corpus = Corpus.open(study / "corpus")
    mixer = ByteMixer(BITS)
    expected = np.concatenate([mixer.losses(corpus.document(number)) for number in range(12)])
    assert read(links["online"].scores)["nll_bits"].to_numpy().tobytes() == expected.tobytes()


def test_a_sample_is_picked_from_the_same_pass(study, links):
    plan_corpus(study / "corpus", EvaluationSpec(context=64, sample_tokens=3000, shards=1), study / "sample.parquet")
    seed = derive_seed(shard.sha256 for shard in Corpus.open(study / "corpus").manifest.shards)
    assert read_plan(study / "sample.parquet").seed == seed != derive_seed(["0" * 64])
    sampled, whole = read(score(study, "online", "sample", 1).scores), read(links["online"].scores)
    joined = sampled.join(whole, ["document", "position"], right_suffix="_whole")
    assert 0 < joined.num_rows < whole.num_rows
    np.testing.assert_array_equal(joined["nll_bits"].to_numpy(), joined["nll_bits_whole"].to_numpy())
    links = [score(study, message, "sample", 1) for message in ("online", "chain")]
    chained = certify(study, "sampled", links, "sample", bounds=("telescoped",), link_alphas=(0.01, 0.3))
    (row,) = [row for row in chained.rows if row.links]
    assert row.empirical < row.value < row.random_guess and len(row.links) == 2
    verify_certificate(study / "sampled.json", rescore=2)


def test_ngrams_of_any_vocabulary_are_certified_and_replayed(study):
    row = certify(study, "grams", [score(study, "grams")]).best
    assert row.empirical < row.value < row.random_guess
    verify_certificate(study / "grams.json", rescore=3)


def test_ranks_are_never_below_the_true_ones(study, links):
    """The distribution over all bytes, by one copy of the predictor for each, at a few places."""
    text = Corpus.open(study / "corpus").document(0)
    ranks = read(links["online"].scores)["rank"].to_numpy()
    assert ranks.min() >= 1 and ranks.max() <= 256
    for place in (0, 40, 300):
        losses = []
        for byte in range(256):
            mixer = ByteMixer(BITS)
            losses.append(mixer.losses(np.append(text[:place], byte))[-1])
        true = int(np.sum(np.array(losses) <= losses[text[place]]))
        assert true <= ranks[place]


def test_its_certificate_says_what_it_is_of_and_verifies(study, links):
    certificate = certify(study, "alone", [links["online"]])
    assert certificate.prior.kind == "online"
    row = certificate.best
    assert row.empirical < row.value < row.random_guess and not competes(certificate, row)
    assert "the online reference's expected loss" in state_result(certificate)
    assert any("learns from each token after predicting it" in text for text in certificate.assumptions)
    verify_certificate(study / "alone.json", rescore=3)


def test_documents_are_not_independent_for_it(study, links):
    with pytest.raises(CertificateError, match="learns along the corpus"):
        certify(study, "units", [links["online"]], bounds=("documents",))


def test_losses_that_a_replay_does_not_give_are_refused(study, links):
    forged = study / "forged"
    forged.mkdir()
    for path in links["online"].scores:
        shutil.copy(path, forged / path.name)
    path = forged / links["online"].scores[1].name
    table = pq.read_table(path)
    better = np.maximum(table["nll_bits"].to_numpy() - 0.05, 0).astype(np.float32)
    place = table.schema.get_field_index("nll_bits")
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"digest"}
    pq.write_table(table.set_column(place, "nll_bits", pa.array(better)).replace_schema_metadata(metadata), path)
    link = LinkInputs(links["online"].message, tuple(forged / path.name for path in links["online"].scores))
    with pytest.raises((CertificateError, ScoreError)):
        certify(study, "forged", [link])
        verify_certificate(study / "forged.json", rescore=20)


def test_below_a_model_it_lowers_the_certificate_and_the_mixture_is_no_best_model(study, links):
    alone = certify(study, "chain", [links["chain"]]).best
    chained = certify(
        study,
        "chained",
        [links["online"], links["chain"]],
        bounds=("betting", "telescoped"),
        link_alphas=(0.01, 0.3),
        link_betas=(0.5, 1.0),
    )
    (telescoped,) = [row for row in chained.rows if row.links]
    assert telescoped.value < alone.value
    assert not competes(chained, telescoped) and chained.prior.kind == "message"
    verify_certificate(study / "chained.json", rescore=2)


@pytest.mark.parametrize(
    "forge",
    [
        lambda header, parts: header["model"].update(table_bits=40),
        lambda header, parts: header["model"].update(table_bits=True),
        lambda header, parts: header["model"].update(order=3),
        lambda header, parts: header["model"].update(method="ngrams_1"),
        lambda header, parts: header["model"].update(method="ngrams_1", order=99),
        lambda header, parts: header["model"].update(method="ngrams_1", order=3, vocabulary_size=1 << 40),
        lambda header, parts: header.update(model=[]),
        lambda header, parts: header["model"].update(method="another"),
        lambda header, parts: header["model"].update(vocabulary_size=512),
        lambda header, parts: header["quantizer"].update(levels=3),
        lambda header, parts: header.update(more=1),
        lambda header, parts: parts.append(Part("symbols", b"12")),
    ],
)
def test_messages_that_say_anything_else_are_refused(study, forge):
    header, parts = json.loads(json.dumps(read_message(study / "online.tbm").header)), []
    forge(header, parts)
    with pytest.raises(MessageError):
        decode_message(render_message(header, parts))


def test_what_limits_what_is_seen_is_refused(study):
    plan_corpus(study / "corpus", EvaluationSpec(context=8, visible_tokens=8, shards=1), study / "few.parquet")
    with pytest.raises(ScoreError, match="sees more than the 8 visible tokens"):
        score(study, "online", "few", 1)


def rows(**certificate):
    return {
        "study": "s",
        "corpora": {"c": {"source": {"kind": "text", "paths": ["t"]}, "tokenizer": {"kind": "bytes"}}},
        "models": {"o": {"kind": "online"}, "m": {"kind": "markov", "corpus": "c"}},
        "messages": {
            "o": {"model": "o", "quantizer": {"kind": "no_values"}},
            "m": {"model": "m", "quantizer": {"kind": "counts"}},
        },
        "evaluations": {"default": {}, "few": {"visible_tokens": 4}},
        "certificates": {"o": {"message": "o", "corpus": "c", **certificate}},
    }


def test_the_configuration_knows_what_cannot_work():
    parse_study(rows())
    parse_study(rows(chain=["o"], message="m", bounds={"bounds": ["telescoped"]}))
    with pytest.raises(ConfigError, match="'o' learns along the corpus"):
        parse_study(rows(prior="held_out"))
    with pytest.raises(ConfigError, match="limits what is seen"):
        parse_study(rows(evaluation="few"))
    with pytest.raises(ConfigError, match="independent from one of the documents to the next"):
        parse_study(rows(bounds={"bounds": ["documents"]}))
    many = rows()
    many["models"]["o"] = {"kind": "online", "predictor": "ngrams", "order": 2, "vocabulary_size": 255}
    with pytest.raises(ConfigError, match="'o' predicts 255 tokens, and corpus 'c' has 256"):
        parse_study(many)
    many["models"]["o"]["vocabulary_size"] = 300
    parse_study(many)
    for key in ("order", "vocabulary_size"):
        wrong = rows()
        wrong["models"]["o"][key] = 5
        with pytest.raises(ConfigError, match=f"{key}.*choose predictor: ngrams"):
            parse_study(wrong)
    wrong = rows()
    wrong["messages"]["o"]["quantizer"]["kind"] = "counts"
    with pytest.raises(ConfigError, match="needs a quantizer of kind no_values"):
        parse_study(wrong)
    wrong = rows()
    wrong["messages"]["m"]["quantizer"]["kind"] = "no_values"
    with pytest.raises(ConfigError, match="needs a quantizer of kind counts"):
        parse_study(wrong)
