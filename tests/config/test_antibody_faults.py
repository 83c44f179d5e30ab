"""Impossible configurations of antibodies are refused in terms of their own keys, before anything is computed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tokenbounds.config import AntibodyTokenizer, ByteTokenizer, IglmTokenizer, parse_study
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.errors import ConfigError

AIRR = {"kind": "airr", "paths": ["a.tsv"]}
STUDY: dict[str, Any] = {
    "study": "antibodies",
    "corpora": {
        "own": {"source": {**AIRR, "clone": "clone_id"}, "tokenizer": {"kind": "antibody"}},
        "heavy": {"source": {**AIRR, "chains": "heavy"}, "tokenizer": {"kind": "iglm"}},
        "text": {"source": {"kind": "text", "paths": ["a.txt"]}},
    },
    "models": {
        "own": {"kind": "markov", "corpus": "own"},
        "text": {"kind": "markov", "corpus": "text"},
        "iglm": {"kind": "pretrained", "package": "iglm", "subfolder": "trained_models/IgLM-S", "start_id": 31},
        "other": {"kind": "pretrained", "name": "folder"},
    },
    "messages": {
        **{name: {"model": name, "quantizer": {"kind": "counts"}} for name in ("own", "text")},
        **{name: {"model": name, "quantizer": {"kind": "uniform"}} for name in ("iglm", "other")},
    },
    "certificates": {"own": {"message": "own", "corpus": "own"}, "text": {"message": "text", "corpus": "text"}},
}
RECOVERY = {"kind": "recovery", "corpus": "own", "messages": ["own"]}
AFFINITY = {
    **{"kind": "affinity", "paths": ["a.csv"], "messages": ["own"], "value": "KD", "higher_is_better": False},
    "heavy": "VH",
}


def parse(**sections: dict[str, Any]):
    raw = copy.deepcopy(STUDY)
    for section, rows in sections.items():
        raw.setdefault(section, {}).update(rows)
    return parse_study(raw)


def refused(message: str, **sections: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(**sections)


def csv(**columns: str) -> dict[str, Any]:
    return {"x": {"source": {"kind": "csv", "paths": ["a.csv"], **columns}, "tokenizer": {"kind": "antibody"}}}


def iglm(source: dict[str, Any], chain: str = "heavy") -> dict[str, Any]:
    return {"x": {"source": source, "tokenizer": {"kind": "iglm", "chain": chain}}}


def test_the_study_and_its_tasks_are_accepted():
    parse(tasks={"r": {**RECOVERY, "messages": ["own", "iglm", "other"], "species": "mouse"}, "a": AFFINITY})
    parse(corpora=iglm({"kind": "fasta", "paths": ["a.fa"], "chain": "light"}, "light"))
    parse(corpora=iglm({"kind": "csv", "paths": ["a.csv"], "light": "VL"}, "light"))


@pytest.mark.parametrize(
    ("source", "given"),
    [
        (AIRR, "chains of both kinds"),
        ({**AIRR, "chains": "paired"}, "chains of both kinds"),
        ({**AIRR, "chains": "light"}, "light chains"),
        ({"kind": "oas", "paths": ["u.csv"]}, "chains of both kinds"),
        ({"kind": "fasta", "paths": ["a.fa"]}, "chains of both kinds"),
        ({"kind": "csv", "paths": ["a.csv"], "heavy": "VH", "light": "VL"}, "chains of both kinds"),
    ],
)
def test_iglm_is_told_one_kind_of_chain(source, given):
    refused(rf"corpora\.x\.tokenizer\.chain: .*told to IgLM as heavy.*may give {given}", corpora=iglm(source))


@pytest.mark.parametrize("key", ["gaps", "ambiguous"])
def test_iglm_has_no_token_for_what_is_no_amino_acid(key):
    source = {**AIRR, "chains": "heavy", "keep": {key: True}}
    refused(rf"corpora\.x\.source\.keep\.{key}: IgLM has no token", corpora=iglm(source))


def test_a_column_has_one_meaning():
    refused(r"corpora\.x\.source\.light: the column 'VH' is 'heavy' already", corpora=csv(heavy="VH", light="VH"))
    refused(r"corpora\.x\.source\.clone: the column 'VH' is 'heavy' already", corpora=csv(heavy="VH", clone="VH"))
    parse(corpora=csv(heavy="VH", clone="@file", donor="@file"))
    refused(r"tasks\.a\.light: the column 'VH' is 'heavy' already", tasks={"a": {**AFFINITY, "light": "VH"}})
    refused(r"tasks\.a\.antibody: the column 'KD' is 'value' already", tasks={"a": {**AFFINITY, "antibody": "KD"}})


@pytest.mark.parametrize("task", [RECOVERY, AFFINITY])
def test_a_task_on_a_model_of_other_text_is_refused(task):
    line = r"tasks\.t\.messages: the model of 'text' reads corpus 'text', whose tokenizer is of kind bytes"
    refused(line, tasks={"t": {**task, "messages": ["own", "text"]}})


def test_what_only_iglm_is_told_is_told_to_iglm():
    refused(r"tasks\.t\.species: none of its models is IgLM", tasks={"t": {**RECOVERY, "species": "mouse"}})
    unknown = {key: value for key, value in AFFINITY.items() if key != "heavy"} | {
        "sequence": "s",
        "messages": ["iglm"],
    }
    refused(r"tasks\.t\.sequence: IgLM \('iglm'\) must be told which chain", tasks={"t": unknown})


# --- top_k ------------------------------------------------------------------------------------------------------------


def test_top_k_suits_small_vocabularies_and_others_are_as_before():
    study = parse()
    assert study.certificates["own"].bounds.top_k == (1, 3, 5, 10)
    assert study.certificates["text"].bounds.top_k == (1, 10, 100)
    stated = {"own": {**STUDY["certificates"]["own"], "bounds": {"top_k": [1, 28]}}}
    assert parse(certificates=stated).certificates["own"].bounds.top_k == (1, 28)


@pytest.mark.parametrize(("corpus", "k", "size"), [("own", 29, 29), ("own", 100, 29), ("text", 256, 256)])
def test_more_guesses_than_tokens_are_refused(corpus, k, size):
    row = {"message": corpus, "corpus": corpus, "bounds": {"top_k": [1, k]}}
    refused(rf"certificates\.x\.bounds\.top_k: {k} guesses among the {size} tokens", certificates={"x": row})


def test_the_sizes_of_vocabularies_are_the_tokenizers():
    for spec in (ByteTokenizer(kind="bytes"), AntibodyTokenizer(kind="antibody"), IglmTokenizer(kind="iglm")):
        assert load_tokenizer(spec).vocabulary_size == spec.vocabulary_size


def test_the_first_token_of_iglm_must_be_given():
    row = {"kind": "pretrained", "package": "iglm", "subfolder": "trained_models/IgLM-S"}
    refused(r"models\.iglm\.start_id: .*Give 31", models={"iglm": row})
