"""Memory and time that jobs ask for, in numbers, and functions of wildcards."""

import json
import re

import pytest
import yaml
from tokenbounds.config import graph, parse_study, resources
from tokenbounds.config.docs import ROOT
from tokenbounds.config.resources import Inputs, growing
from tokenbounds.config.wildcards import Functions, one_of

STUDY = {
    "study": "s",
    "corpora": {"c": {"source": {"kind": "text", "paths": ["a"]}}},
    "models": {
        "t": {
            "kind": "trained",
            "corpus": "c",
            "architecture": {"layers": 2, "hidden": 1000, "heads": 10},
            "training": {"steps": 1000, "batch_tokens": 10000},
        },
        "m": {"kind": "markov", "corpus": "c", "order": 1},
        "p": {"kind": "pretrained", "name": "folder"},
        "f": {"kind": "finetuned", "base": "p", "corpus": "c", "training": {"steps": 1000, "batch_tokens": 3000}},
    },
    "calibrations": {"cal": {"model": "p", "corpus": "c", "tokens": 240000}},
    "messages": {
        "t": {"model": "t", "quantizer": {"kind": "uniform"}},
        "m": {"model": "m", "quantizer": {"kind": "counts"}},
        "p": {"model": "p", "quantizer": {"kind": "uniform"}},
        "f": {"model": "f", "quantizer": {"kind": "uniform"}},
    },
    "evaluations": {
        "e": {"shards": 2, "context": 100, "stride": 50},
        "sampled": {"shards": 2, "context": 100, "sample_tokens": 1200},
    },
    "certificates": {"t": {"message": "t", "corpus": "c", "evaluation": "e"}},
}


@pytest.fixture(scope="module")
def study():
    return parse_study(STUDY)


@pytest.fixture
def inputs(tmp_path):
    """A corpus of 12 million tokens and 500 kinds of them, a message of 2 MB, a base of 30 MB."""
    manifest = {"tokens": 12_000_000, "tokenizer": {"vocabulary_size": 500}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest).ljust(1_000_000))
    for name, size in (("message.tbm", 2), ("base.safetensors", 30)):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(size * 1_000_000)

    def take(**names):
        return Inputs({key: tuple(str(tmp_path / name) for name in files) for key, files in names.items()})

    return take


def test_sizes_of_inputs(inputs, tmp_path):
    job = inputs(message=["message.tbm"], side_information=["base.safetensors", "message.tbm"])
    assert job.megabytes() == 34
    assert job.megabytes("side_information") == 32
    assert job.megabytes(suffix=".tbm") == 4
    assert growing(100, 2)(None, job) == 168
    assert growing(100)(None, inputs(message=["missing"])) == 100
    with pytest.raises(FileNotFoundError):
        growing(100, 2)(None, inputs(message=["missing"]))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tokens": 3}'])
def test_a_damaged_manifest_is_left_to_the_job(inputs, tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert inputs(manifest=["manifest.json"]).corpus() == (0, 0)


def test_training_grows_with_parameters_and_tokens(study, inputs):
    job = inputs(manifest=["manifest.json"])
    # 24e6 parameters in blocks, 1e6 in both embeddings; 6 operations for each and each of 1e7 tokens.
    assert resources.training_minutes(study, "t", job) == 20 + 6 * 24e6 * 1e7 / 2e10 / 60
    assert resources.training_megabytes(study, "t", job) == 6000 + 16 * (24 + 1)


def test_a_fine_tune_grows_with_its_base(study, inputs):
    job = inputs(manifest=["manifest.json"], base=["base.safetensors"])
    assert resources.finetuning_minutes(study, "f", job) == pytest.approx(20 + 4 * 7.5e6 * 3e6 / 2e10 / 60)


@pytest.mark.parametrize(
    ("config", "expected"),
    [("{}", 2500 + 0.1 * 30), ('{"quantization_config": {"bits": 4}}', 3500 + 0.5 * 30), ("{", 3500 + 0.5 * 30)],
)
def test_an_import_decodes_quantized_files_and_reads_plain_ones(study, inputs, tmp_path, config, expected):
    (tmp_path / "config.json").write_text(config)
    job = inputs(files=["base.safetensors", str(tmp_path / "config.json")])
    assert resources.import_megabytes(study, "p", job) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("small", [True, False])
def test_encoding_of_large_models_asks_for_a_few_matrices(inputs, tmp_path, small):
    (tmp_path / "original.json").write_text(json.dumps({"parameters": 1_000_000 if small else 1_000_000_000}))
    megabytes = 4 if small else 4000
    rows = {
        "rtn": {"kind": "rtn", "target": {"scale": 1}},
        "published": {"kind": "published"},
        "uniform": {"kind": "uniform"},
        "codebook": {"kind": "codebook", "levels": 8},
        "trained": {"kind": "uniform", "straight_through": {"steps": 3}},
        "tuned": {"kind": "watersic", "calibration": "cal", "target": {"scale": 1}, "tuning": {}},
    }
    messages = {name: {"model": "p", "quantizer": row} for name, row in rows.items()}
    messages["head"] = {"model": "t", "quantizer": rows["rtn"], "smoothing_head": {}}
    messages["trained"]["model"] = "t"
    messages["finetuned"] = {"model": "f", "quantizer": rows["uniform"]}
    study = parse_study(STUDY | {"messages": STUDY["messages"] | messages})
    job = inputs(model=["original.json"])
    for name in messages:
        whole = 6000 + (17 if name == "trained" else 6) * megabytes
        per_megabyte = {"rtn": 0.5, "published": 0.5, "uniform": 1, "codebook": 1}.get(name)
        few = whole if per_megabyte is None else 8000 + per_megabyte * megabytes
        assert resources.encoding_megabytes(study, name, job) == min(whole, few), name


def test_an_imported_model_counts_as_its_values_would_in_float32(tmp_path):
    (tmp_path / "original.json").write_text('{"parameters": 3000000}')
    assert Inputs({"model": (str(tmp_path / "original.json"),)}).megabytes() == 12
    (tmp_path / "original.json").write_text("{}")
    assert Inputs({"model": (str(tmp_path / "original.json"),)}).megabytes() == 0


def test_an_import_of_unknown_size_asks_for_much(study, inputs):
    assert resources.import_megabytes(study, "p", inputs()) == 16000
    assert resources.import_megabytes(study, "p", inputs(files=[])) == 16000


def test_counting_needs_room_for_every_gram_that_there_can_be(study, inputs):
    job = inputs(manifest=["manifest.json"])
    assert resources.counting_megabytes(study, "m", job) == 4000 + 48 * 500**2 / 1e6
    assert resources.counting_minutes(study, job) == 60 + 12e6 / 5e5 / 60


def test_calibration_passes_all_values_thrice(study, inputs):
    job = inputs(model=["base.safetensors"])
    assert resources.calibration_minutes(study, "cal", job) == 20 + 2.5 * 30e6 * 240000 / 1e10 / 60


@pytest.mark.parametrize(
    ("message", "beside", "parameters"),
    [("t", [], 24e6 + 500 * 1000), ("m", [], 0), ("p", [], 8e6), ("f", ["base.safetensors"], 7.5e6)],
)
def test_scoring_takes_the_time_of_the_model_that_is_decoded(study, inputs, message, beside, parameters):
    job = inputs(message=["message.tbm"], side_information=beside, manifest=["manifest.json"])
    # Half of 12e6 tokens, each seen in two windows.
    minutes = 120 + 2 / 4 + 6e6 * (5e-5 + 2 * parameters * 2 / 2e10) / 60
    assert resources.scoring_minutes(study, "c", "e", message, job) == pytest.approx(minutes)


def test_a_sample_is_scored_in_less(study, inputs):
    job = inputs(message=["message.tbm"], side_information=["base.safetensors"], manifest=["manifest.json"])
    assert resources.scoring_minutes(study, "c", "sampled", "m", job) == pytest.approx(120 + 0.5 + 600 * 5e-5 / 60)
    # 60 for each MB of message and manifest, 2 for each of the base, 16 bytes per token.
    assert resources.scoring_megabytes(study, "c", "sampled", "m", job) == pytest.approx(
        4000 + 180 + 60 + 16 * 600 / 1e6
    )


def test_messages_that_are_decoded_in_blocks_need_little_memory(study, inputs, tmp_path):
    with (tmp_path / "large.tbm").open("wb") as stream:
        stream.truncate(1_900_000_000)  # 7 billion parameters at 2 bits
    job = inputs(message=["large.tbm"], side_information=[], manifest=["manifest.json"])
    scored = 16 * 600 / 1e6
    assert resources.scoring_megabytes(study, "c", "sampled", "p", job) == pytest.approx(16000 + 3 * 1900 + scored)
    whole = {**STUDY["evaluations"], "sampled": {**STUDY["evaluations"]["sampled"], "placement": "whole"}}
    study = parse_study({**STUDY, "evaluations": whole})
    assert resources.scoring_megabytes(study, "c", "sampled", "p", job) == pytest.approx(4000 + 60 * 1901 + scored)


def test_centres_take_whole_predictions_of_ngrams(study, inputs):
    job = inputs(message=["message.tbm"], side_information=[], manifest=["manifest.json"])
    centred = {**STUDY["certificates"]["t"], "bounds": {"centre_order": 3}}
    with_centres = parse_study({**STUDY, "certificates": {"t": centred}})
    # Three tables of 2^22 entries; 2^26 probabilities thrice, in float32, and those of 100 tokens in float64.
    more = (3 * 4 * 2**22 + 12 * 2**26 + 8 * 500 * 100) / 1e6
    before, after = (resources.scoring_megabytes(each, "c", "e", "t", job) for each in (study, with_centres))
    assert after - before == pytest.approx(more)
    before, after = (resources.scoring_minutes(each, "c", "e", "t", job) for each in (study, with_centres))
    assert after - before == pytest.approx((12e6 / 2e5 + 6e6 * 5e-8 * 500) / 60)
    # Nothing for other evaluations and messages.
    for evaluation, message in (("sampled", "t"), ("e", "p")):
        amounts = (resources.scoring_megabytes(each, "c", evaluation, message, job) for each in (study, with_centres))
        assert len(set(amounts)) == 1


@pytest.mark.parametrize(("message", "threads"), [("t", (4, 16)), ("p", (4, 16)), ("f", (4, 16)), ("m", (1, 1))])
def test_a_chain_asks_for_one_thread(study, message, threads):
    assert (resources.scoring_threads(study, message), resources.encoding_threads(study, message)) == threads


@pytest.mark.parametrize(("hidden", "threads"), [(200, 1), (208, 4)])  # 24 · hidden² parameters: 960,000 and 1,038,336
def test_a_small_network_asks_for_one_thread(hidden, threads):
    model = {**STUDY["models"]["t"], "architecture": {"layers": 2, "hidden": hidden, "heads": 2}}
    study = parse_study({**STUDY, "models": {**STUDY["models"], "t": model}})
    assert resources.scoring_threads(study, "t") == threads


def test_the_profile_for_gpus_names_every_rule_that_can_use_one():
    asks = yaml.safe_load((ROOT / "slurm/gpu/config.yaml").read_text())["set-resources"]
    able = set()
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for name, body in re.findall(r"^rule (\w+):\n((?:[ ].*\n|\n)*)", path.read_text(), re.MULTILINE):
            able |= {name} if "        gres=" in body else set()
    assert set(asks) == able - {"encode_model"}  # which uses one only for large models
    assert "measure_task" in able and "tokenize_corpus" not in able


# --- functions of wildcards -------------------------------------------------------------------------------------------


def test_names_are_the_wildcards_that_are_called_so(study, inputs):
    on = Functions(study)
    assert on.of(graph.training_corpus)({"model": "m"}) == "results/corpora/c/manifest.json"
    wildcards = {"message": "m", "evaluation": "e", "corpus": "c"}
    assert on.of(graph.score_files)(wildcards)[1] == "results/scores/c/e/m/shard-00001.parquet"
    assert json.loads(on.row("models", "model")({"model": "m"}))["order"] == 1
    asked_for = on.amount(resources.counting_megabytes)
    files = {"manifest": inputs(manifest=["manifest.json"]).files["manifest"][0]}
    assert asked_for({"model": "m"}, files, 1) == 4012
    assert asked_for({"model": "m"}, files, 3) == 12036
    assert on.amount(growing(7))({}, {}, 2) == 14


def test_regular_expressions_of_names():
    assert re.fullmatch(one_of(["a.b", "a"]), "a.b")
    assert not re.fullmatch(one_of(["a.b"]), "axb")
    assert not re.fullmatch(one_of([]), "")
    assert Functions(parse_study(STUDY)).models("markov") == "m"
