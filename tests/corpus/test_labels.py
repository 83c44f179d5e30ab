"""Label columns of text corpora: literal values, what is refused, and the way from source to certificate."""

import json
import re
from pathlib import Path

import datasets
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from tokenbounds.certificates.certify import certify_bound
from tokenbounds.certificates.evidence import CertificateInputs, LinkInputs
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import (
    BoundsSpec,
    CorpusSpec,
    EvaluationSpec,
    HuggingFaceSource,
    JsonLinesSource,
    MarkovModel,
    MessageSpec,
    ParquetSource,
    parse_study,
)
from tokenbounds.config.corpora import SCORE_COLUMNS
from tokenbounds.config.quantizers import CountsQuantizer
from tokenbounds.corpus.annotations import Annotations
from tokenbounds.corpus.labels import MOST_LABELS, DocumentLabels
from tokenbounds.corpus.reader import Corpus
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.errors import ConfigError, CorpusError
from tokenbounds.models.markov.counts import fit_markov
from tokenbounds.report.page import write_certificate_page
from tokenbounds.scores.plan import plan_corpus
from tokenbounds.scores.provenance import ALPHA_FIELD, SCORE_SCHEMA
from tokenbounds.scores.scoring import score_message

# The spaces, the two ways to write ü, and the digits must come out as they went in.
ROWS = [
    {"text": "der Hund", "language": "de", "year": 2019},
    {"text": "the dog", "language": "en", "year": 2020},
    {"text": "", "language": "en ", "year": 2019},
    {"text": "ein Bär", "language": "de"},
    {"text": "un chien", "language": None, "year": 2019},
    {"text": "una", "language": "", "year": 2020},
    {"text": "T\u00fcr", "language": "T\u00fcr", "year": 2020},
    {"text": "T\u00fcr", "language": "Tu\u0308r", "year": 2020},
]
LANGUAGES = ("de", "en", "en ", "(missing)", "(empty)", "T\u00fcr", "Tu\u0308r")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tokenize(folder, rows=ROWS, labels=("language", "year"), shards=3):
    source = JsonLinesSource(kind="jsonl", paths=(str(write_lines(folder / "a.jsonl", rows)),), labels=labels)
    return tokenize_corpus(CorpusSpec(source=source, shards=shards), "c", folder / "c")


def test_a_document_s_labels_are_those_of_all_its_tokens(tmp_path):
    manifest = tokenize(tmp_path)
    language, year = manifest.labels
    assert (language.name, language.categories) == ("language", LANGUAGES)
    assert (year.name, year.categories) == ("year", ("2019", "2020", "(missing)"))
    corpus = Corpus.open(tmp_path / "c", verify=True)
    assert corpus.manifest == manifest and manifest.schema_version == 2
    annotations = Annotations.open(tmp_path / "c", corpus)
    for number, row in enumerate(ROWS):
        codes = annotations.document(number)
        length = len(row["text"].encode())
        assert [language.categories[code] for code in codes["language"]] == [
            {None: "(missing)", "": "(empty)"}.get(row["language"], row["language"])
        ] * length
        assert [year.categories[code] for code in codes["year"]] == [str(row.get("year", "(missing)"))] * length


def test_parquet_and_data_sets_have_the_same_labels(tmp_path):
    wanted = tokenize(tmp_path, labels=("language",)).labels
    table = pa.table({"text": [row["text"] for row in ROWS], "language": [row["language"] for row in ROWS]})
    pq.write_table(table.append_column("other", pa.array(range(8))), tmp_path / "x.parquet")
    datasets.Dataset(table).save_to_disk(str(tmp_path / "saved"))
    for source in (
        ParquetSource(kind="parquet", paths=(str(tmp_path / "x.parquet"),), labels=("language",)),
        HuggingFaceSource(kind="huggingface", name=str(tmp_path / "saved"), labels=("language",)),
    ):
        found = tokenize_corpus(CorpusSpec(source=source, shards=2), "d", tmp_path / "d")
        assert found.labels == wanted
        codes = [pl.read_parquet(tmp_path / name / "annotations.parquet")["language"] for name in "cd"]
        assert codes[0].equals(codes[1])


def test_corpora_without_labels_have_the_manifest_they_had(tmp_path):
    tokenize(tmp_path, labels=())
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert "labels" not in manifest and "labels" not in manifest["source"] and manifest["schema_version"] == 1
    assert not (tmp_path / "c" / "annotations.parquet").exists()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (["de", 3], r"a\.jsonl:2.*3 of type int after values of type str"),
        ([1.5], "type float"),
        ([["de"]], "type list"),
        (["a\nb"], "cannot be printed"),
        (["\u202egnp"], "cannot be printed"),
        (["x" * 201], "longer than 200"),
        (["(missing)"], "means that there is no value"),
        (["(empty)"], "means that there is no value"),
        ([None, None], "no document has a value in the label column 'language'"),
        ([f"l{n}" for n in range(MOST_LABELS + 1)], rf"a\.jsonl:257.*more than {MOST_LABELS} labels"),
    ],
)
def test_labels_that_would_mislead_are_refused(tmp_path, values, complaint):
    with pytest.raises(CorpusError, match=complaint):
        tokenize(tmp_path, [{"text": "t", "language": value} for value in values], ("language",))
    assert list((tmp_path / "c").iterdir()) == []


def test_true_and_false_are_labels(tmp_path):
    labels = DocumentLabels("flag")
    assert [labels.code(value, "here") for value in (False, True, False, None)] == [0, 1, 0, 2]
    assert labels.column().categories == ("false", "true", "(missing)")
    with pytest.raises(CorpusError, match="1 of type int after"):
        labels.code(1, "here")


def test_columns_that_are_not_there_are_named(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    source = ParquetSource(kind="parquet", paths=(str(tmp_path / "x.parquet"),), labels=("tongue",))
    with pytest.raises(CorpusError, match=r"no column 'tongue' \(it has: text\). Set the source's 'labels'"):
        tokenize_corpus(CorpusSpec(source=source), "c", tmp_path / "c")


@pytest.mark.parametrize(
    "forge",
    [
        lambda labels: labels[0].update(categories=["de", "de"]),
        lambda labels: labels[0].update(categories=[1, 2]),
        lambda labels: labels[0].update(integer="float64"),
        lambda labels: labels[0].pop("name"),
        lambda labels: labels.clear(),
    ],
)
def test_manifests_with_damaged_labels_are_refused(tmp_path, forge):
    tokenize(tmp_path)
    path = tmp_path / "c" / "manifest.json"
    manifest = json.loads(path.read_text())
    forge(manifest["labels"])
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorpusError, match=r"manifest\.json"):
        Corpus.open(tmp_path / "c")


# --- configuration ----------------------------------------------------------------------------------------------------


def study(labels, subsets):
    source = {"kind": "jsonl", "paths": ["a.jsonl"], "labels": labels}
    return {
        "study": "s",
        "corpora": {"c": {"source": source}},
        "models": {"m": {"kind": "markov", "corpus": "c"}},
        "messages": {"m": {"model": "m", "quantizer": {"kind": "counts"}}},
        "evaluations": {"default": {}},
        "certificates": {"m": {"message": "m", "corpus": "c", "bounds": {"subsets": subsets}}},
    }


def test_studies_name_labels_that_their_corpora_declare():
    parse_study(study(["language", "source"], ["source"]))
    for labels, subsets, complaint in (
        ([], ["language"], "corpus 'c' has no label 'language', only none at all.*take 'labels'"),
        (["source"], ["language"], "corpus 'c' has no label 'language', only source"),
        (["rank"], [], "corpora.c.source.labels: 'rank' is a column of score files"),
        (["a", "a"], [], "a column appears twice"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            parse_study(study(labels, subsets))


def test_no_label_column_is_called_like_a_column_of_scores(tmp_path):
    assert {*SCORE_SCHEMA.names, ALPHA_FIELD.name} <= set(SCORE_COLUMNS)
    with pytest.raises(CorpusError, match="names rank, a column of score files"):
        tokenize(tmp_path, labels=("rank",))
    with pytest.raises(ValidationError, match="labels"):
        tokenize(tmp_path, labels=("a column",))


# --- from a text corpus to a certificate ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Two languages of one letter each and the digits between them, a chain counted on them, certified by language."""
    folder = tmp_path_factory.mktemp("labels")
    generator = np.random.default_rng(0)
    rows = [
        {
            "text": "".join(generator.choice(list("ab" if n % 3 else "cdefgh"), 300)),
            "language": "two" if n % 3 else "six",
        }
        for n in range(30)
    ]
    tokenize(folder, rows, ("language",))
    fit_markov(MarkovModel(kind="markov", corpus="c", order=1), Corpus.open(folder / "c"), folder / "model")
    spec = MessageSpec(model="model", quantizer=CountsQuantizer(kind="counts", threshold=1))
    encode_model(folder / "model", spec, folder / "m.tbm", folder / "m.json")
    plan_corpus(folder / "c", EvaluationSpec(context=64, shards=2), folder / "plan.parquet")
    scores = tuple(folder / f"shard-{shard}.parquet" for shard in range(2))
    for shard, path in enumerate(scores):
        score_message(folder / "m.tbm", folder / "c", folder / "plan.parquet", shard, path)
    inputs = CertificateInputs(folder / "c", folder / "plan.parquet", (LinkInputs(folder / "m.tbm", scores),))
    bounds = BoundsSpec(
        top_k=(1,), alphas=(0.001, 0.1), lambdas=4, bounds=("betting", "documents"), subsets=("language",)
    )
    certify_bound("by-language", "labels", inputs, bounds, folder / "certificate.json", model="model")
    return folder / "certificate.json"


def test_scores_carry_the_labels_and_their_names(certificate):
    scores = pa.concat_tables([pq.read_table(certificate.parent / f"shard-{shard}.parquet") for shard in range(2)])
    declared = json.loads(pq.read_schema(certificate.parent / "shard-0.parquet").metadata[b"labels"])
    assert [column["categories"] for column in declared] == [["six", "two"]]
    letters = scores["token"].to_numpy()
    np.testing.assert_array_equal(scores["language"].to_numpy(), (letters <= ord("b")).astype(np.int16))


def test_a_text_corpus_is_certified_language_by_language(certificate):
    checks = [check.name for check in verify_certificate(certificate)]
    assert "recomputed" in checks
    subsets = json.loads(certificate.read_text())["subsets"]
    assert [(each["column"], each["label"], each["tokens"]) for each in subsets] == [
        ("language", "six", 3000),
        ("language", "two", 6000),
    ]
    page = certificate.with_suffix(".html")
    write_certificate_page(certificate, page)
    assert re.search(r">language</td><td[^>]*>six</td><td>3,000</td>", page.read_text("utf-8"))
    bits = {each["label"]: each["rows"][0]["empirical"] for each in subsets}
    assert bits["two"] == pytest.approx(1.0, abs=0.3) and bits["six"] == pytest.approx(np.log2(6), abs=0.3)


def test_what_is_not_of_antibodies_does_not_name_them():
    """Scores, bounds and certificates treat everything alike that a corpus knows about its tokens."""
    library = Path(__file__).parents[2] / "workflow/tokenbounds"
    general = [
        path for name in ("bounds", "models", "scores", "certificates") for path in (library / name).rglob("*.py")
    ]
    general += list((library / "report").glob("*.py"))
    general += [library / "corpus" / f"{name}.py" for name in ("annotations", "labels", "manifest", "memory", "reader")]
    told = re.compile(r"imgt|iglm|antibod|germline|\bregions?\b", re.IGNORECASE)
    # A folder of results is called so, and is published like the others.
    texts = {path.name: path.read_text("utf-8").replace('"antibody/*"', "") for path in general}
    assert [name for name, text in texts.items() if told.search(text)] == []
    assert told.search((library / "corpus/antibodies.py").read_text("utf-8"))
