"""Which files and rows each step reads, from the rows of a study alone."""

import json

import pytest
from tokenbounds.certificates.evidence import CertificateJob
from tokenbounds.config import graph, parse_row, parse_study

BECAUSE = {"held_out_because": "Published on 2025-01-31, before the text was written."}

STUDY = {
    "study": "s",
    "results": "out",
    "corpora": {
        **{name: {"source": {"kind": "text", "paths": [name]}} for name in ("here", "there")},
        "else": {
            "source": {"kind": "csv", "paths": ["else"], "heavy": "vh"},
            "tokenizer": {"kind": "antibody"},
        },
    },
    "models": {
        "published": {"kind": "pretrained", "name": "folder"},
        "first": {"kind": "trained", "corpus": "there"},
        "second": {"kind": "trained", "corpus": "here", "start": "first"},
        "tuned": {"kind": "finetuned", "base": "first", "corpus": "here"},
        "chain": {"kind": "markov", "corpus": "else"},
    },
    "calibrations": {"cal": {"model": "published", "corpus": "there"}},
    "messages": {
        "published": {
            "model": "published",
            "quantizer": {"kind": "gptq", "calibration": "cal", "target": {"bound": "best", "corpus": "here"}},
        },
        "second": {"model": "second", "quantizer": {"kind": "uniform", "straight_through": {"steps": 3}}},
        "fine": {"model": "second", "quantizer": {"kind": "refinement", "of": "second"}},
        "tuned": {"model": "tuned", "quantizer": {"kind": "codebook"}},
        "base": {"model": "first", "quantizer": {"kind": "reference"}},
        "chain": {"model": "chain", "quantizer": {"kind": "counts"}},
    },
    "evaluations": {"e": {"shards": 2, "context": 64}},
    "certificates": {
        "tuned": {
            "message": "tuned",
            "chain": ["chain", "second", "fine"],
            "corpus": "here",
            "evaluation": "e",
            "bounds": {"bounds": ["betting", "telescoped"]},
        },
        "held": {"message": "published", "corpus": "else", "evaluation": "e", "prior": "held_out", **BECAUSE},
    },
    "tasks": {
        "binding": {
            "kind": "affinity",
            "paths": ["table.csv"],
            "messages": ["chain"],
            "value": "kd",
            "higher_is_better": False,
            "sequence": "s",
        }
    },
}


@pytest.fixture(scope="module")
def study():
    return parse_study(STUDY)


def test_training_reads_its_corpus_and_the_model_below(study):
    assert graph.training_corpus(study, "second") == "out/corpora/here/manifest.json"
    assert graph.parent_model(study, "second") == ["out/models/first/card.json", "out/models/first/model.safetensors"]
    assert graph.parent_model(study, "tuned") == graph.parent_model(study, "second")
    assert graph.parent_model(study, "first") == []


def test_a_row_has_a_folder_to_resume_in_that_no_other_row_has(study):
    changed = parse_study({**STUDY, "models": {**STUDY["models"], "first": {**STUDY["models"]["first"], "seed": 1}}})
    assert graph.training_folder(study, "first").startswith("out/work/first-")
    assert graph.training_folder(study, "first") != graph.training_folder(changed, "first")
    assert graph.training_folder(study, "second") == graph.training_folder(changed, "second")


@pytest.mark.parametrize(
    ("message", "corpus", "calibration", "beside"),
    [
        ("published", ["here"], ["out/calibrations/cal.safetensors"], []),
        ("second", ["here"], [], []),
        ("fine", [], [], ["out/messages/second.tbm"]),
        ("tuned", [], [], ["out/models/first/card.json", "out/models/first/model.safetensors"]),
        ("base", [], [], ["out/models/first/card.json", "out/models/first/model.safetensors"]),
        ("chain", [], [], []),
    ],
)
def test_encoding_reads_what_the_quantizer_needs(study, message, corpus, calibration, beside):
    assert graph.encoding_corpus(study, message) == [f"out/corpora/{name}/manifest.json" for name in corpus]
    assert graph.encoding_calibration(study, message) == calibration
    assert graph.side_information(study, message) == beside


def test_a_smoothing_head_needs_the_model_s_corpus():
    raw = {**STUDY, "messages": {**STUDY["messages"], "head": {**STUDY["messages"]["fine"], "smoothing_head": {}}}}
    assert graph.encoding_corpus(parse_study(raw), "head") == ["out/corpora/here/manifest.json"]


def test_markov_chains_have_counts(study):
    assert graph.encoded_model(study, "chain")[1] == "out/models/chain/counts.arrow"
    assert graph.encoded_model(study, "second")[1] == "out/models/second/model.safetensors"


def test_what_a_certificate_depends_on_through_all_rows(study):
    certificates = study.certificates
    assert set(graph.training_corpora(study, certificates["tuned"])) == {"else", "here", "there"}
    assert graph.base_corpora(study, certificates["tuned"]) == ["there"]
    assert set(graph.training_corpora(study, certificates["held"])) == {"there", "here"}
    reached = set(graph.reachable(study, "messages", ["published"]))
    assert ("calibrations", "cal") in reached
    assert ("models", "chain") not in reached


def test_a_certificate_s_specification_names_each_message_with_its_own_scores(study):
    spec = json.loads(graph.certificate_spec(study, "tuned"))
    names = ["chain", "second", "fine", "tuned"]
    assert [link["message"] for link in spec["inputs"]["links"]] == [f"out/messages/{name}.tbm" for name in names]
    for link, name in zip(spec["inputs"]["links"], names, strict=True):
        assert link["scores"] == [f"out/scores/here/e/{name}/shard-{shard:05d}.parquet" for shard in (0, 1)]
    assert spec["inputs"]["held_out"] is None
    assert spec["inputs"]["base_corpora"] == ["out/corpora/there"]
    assert spec["inputs"]["side_information"] == ["out/messages/second.tbm", "out/models/first"]
    assert (spec["study"], spec["model"], spec["bounds"]["delta"]) == ("s", "tuned", 0.05)
    held = json.loads(graph.certificate_spec(study, "held"))["inputs"]
    assert set(held["held_out"]) == {"out/corpora/there", "out/corpora/here"}
    assert held["base_corpora"] == []


def test_the_specification_is_what_the_script_reads(study):
    job = parse_row(CertificateJob, graph.certificate_spec(study, "tuned"))
    assert job.inputs.certified.message.name == "tuned.tbm"
    assert job.bounds == study.certificates["tuned"].bounds
    assert parse_row(CertificateJob, graph.certificate_spec(study, "held")).inputs.held_out is not None


def test_a_message_is_compared_with_its_model_where_a_certificate_asks(study):
    assert graph.original_model(study, "published") == []
    raw = json.loads(json.dumps(STUDY))
    raw["certificates"]["held"]["bounds"] = {"faithfulness": True}
    asking = parse_study(raw)
    files = graph.original_model(asking, "published")
    assert files == graph.model_files(asking, "published") == graph.certificate_files(asking, "held")["original"]
    assert parse_row(CertificateJob, graph.certificate_spec(asking, "held")).inputs.original.name == "published"
    assert graph.certificate_files(asking, "tuned")["original"] == graph.original_model(asking, "tuned") == []


def test_every_file_of_a_certificate_s_specification_is_an_input_of_its_rule(study):
    """Otherwise Snakemake would not make it, and not certify again when it changes."""
    for name in study.certificates:
        inputs = [path for files in graph.certificate_files(study, name).values() for path in _listed(files)]
        made = {*inputs, *(path.rpartition("/")[0] for path in inputs)}
        spec = json.loads(graph.certificate_spec(study, name))["inputs"]
        named = {path for value in spec.values() if isinstance(value, list) for path in value if isinstance(path, str)}
        named |= {spec["corpus"], spec["plan"]}
        named |= {path for link in spec["links"] for path in [link["message"], *link["scores"]]}
        assert named <= made


def _listed(files):
    return [files] if isinstance(files, str) else files


def test_the_report_covers_all_certificates_and_what_tasks_try(study):
    report = graph.report(study)
    assert report.certificates == ["out/certificates/held.json", "out/certificates/tuned.json"]
    assert report.certified_reports == ["out/messages/published.json", "out/messages/tuned.json"]
    assert report.reports == ["out/messages/chain.json", "out/messages/published.json", "out/messages/tuned.json"]
    assert report.curves == {"tuned": "out/models/tuned/training.parquet"}
    assert report.figures[-1] == "training"
    assert "out/antibody/regions.csv" in report.antibodies
    assert list(json.loads(graph.tasks_spec(study))["binding"][1]) == report.answers


def test_without_tasks_and_labelled_rows_there_are_no_tables_of_antibodies():
    assert graph.report(parse_study({**STUDY, "tasks": {}})).antibodies == []


def test_methods_are_compared_if_one_of_several_has_several_sizes():
    def figures(*messages):
        certificates = {name: {"message": name, "corpus": "else", "evaluation": "e"} for name in messages}
        return graph.report(parse_study({**STUDY, "certificates": certificates, "messages": more})).figures

    more = {**STUDY["messages"], "coarse": {"model": "second", "quantizer": {"kind": "uniform", "step_ratio": 2.0}}}
    assert "bound_by_method" in figures("second", "coarse", "tuned")
    assert "bound_by_method" not in figures("second", "coarse")
    assert "bound_by_method" not in figures("second", "tuned", "base")


def test_contexts_are_compared_if_networks_see_different_numbers_of_tokens_on_one_corpus():
    evaluations = {f"sees-{k}": {"context": 64, "visible_tokens": k} for k in (1, 2)}

    def figures(*rows):
        certificates = {
            f"{number}": {"message": message, "corpus": corpus, "evaluation": evaluation}
            for number, (message, corpus, evaluation) in enumerate(rows)
        }
        changes = {"certificates": certificates, "evaluations": {**STUDY["evaluations"], **evaluations}, "tasks": {}}
        return graph.report(parse_study({**STUDY, **changes})).figures

    pair = ("second", "here", "sees-1"), ("second", "here", "sees-2")
    assert "bound_by_context" in figures(*pair)
    assert "bound_by_context" not in figures(pair[0], ("second", "there", "sees-2"))
    assert "bound_by_context" not in figures(pair[0], ("second", "here", "e"))
    assert "bound_by_context" not in figures(pair[0], ("chain", "here", "sees-2"))
