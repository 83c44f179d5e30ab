"""JSON and YAML that readers read differently, or that break one, are refused in one line wherever they are read."""

import gzip
import json

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from tokenbounds.compression.calibration.store import Calibration
from tokenbounds.compression.checkpoint import message_spec
from tokenbounds.config import JsonLinesSource, OasSource, PretrainedModel
from tokenbounds.config.yaml_file import parse_yaml, read_yaml
from tokenbounds.corpus.sources import read_documents
from tokenbounds.errors import CalibrationError, ConfigError, CorpusError, ModelError, TokenboundsError
from tokenbounds.files import read_json
from tokenbounds.models.pretrained.loading import load_pretrained

pytestmark = pytest.mark.adversary
TWICE, DEEP, DIGITS = '{"a": 1, "a": 2}', "[" * 10**5, "9" * 10**5
TEXTS = [TWICE, '{"b": [{"a": 1, "a": 1}]}', DEEP, '{"a":' * 10**5, DIGITS, '"\\x"', ""]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_json_is_refused(tmp_path, text):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(TokenboundsError, match=r"manifest\.json is not valid JSON"):
        read_json(path)


def test_python_alone_takes_the_last():
    assert json.loads(TWICE) == yaml.safe_load(TWICE) == {"a": 2}


@pytest.mark.parametrize("text", ['{"text": "a", "text": "b"}', DEEP, f'{{"text": "a", "n": {DIGITS}}}'], ids="tdn")
def test_lines_of_a_corpus_are_refused(tmp_path, text):
    (tmp_path / "a.jsonl").write_text('{"text": "right"}\n' + text)
    with pytest.raises(CorpusError, match=r"a\.jsonl:2 is not valid JSON"):
        list(read_documents(JsonLinesSource(kind="jsonl", paths=(str(tmp_path),))))


@pytest.mark.parametrize("text", ['{"Subject": "a", "Subject": "b"}', DEEP, DIGITS], ids="tdn")
def test_metadata_of_oas_units_is_refused(tmp_path, text):
    with gzip.open(tmp_path / "a.csv.gz", "wt") as stream:
        stream.write('"' + text.replace('"', '""') + '"\nsequence_alignment_aa\nQVQL\n')
    with pytest.raises(CorpusError, match=r"a\.csv\.gz does not begin with a line of metadata in JSON"):
        list(read_documents(OasSource(kind="oas", paths=(str(tmp_path),))))


@pytest.mark.parametrize("text", ['{"model_type": "gpt2", "model_type": "llama"}', DEEP, DIGITS], ids="tdn")
def test_configurations_of_checkpoints_are_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="cannot read the configuration of"):
        load_pretrained(PretrainedModel(kind="pretrained", name=str(tmp_path)))


def test_a_calibration_whose_record_names_a_key_twice_is_refused(tmp_path):
    save_file({"loss_bits": np.ones(1)}, tmp_path / "c", metadata={"calibration": TWICE})
    with pytest.raises(CalibrationError, match="the key 'a' occurs twice"):
        Calibration.open(tmp_path / "c")


# Ten levels of ten aliases each are 10^10 values in 400 bytes.
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 11))
YAML = [TWICE, DEEP[:5000], DIGITS, BOMB, "a: &a [*a]", "? [a]\n: 1", "a: 2024-99-99"]


@pytest.mark.parametrize("text", YAML, ids=range(len(YAML)))
def test_yaml_is_refused(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"study\.yaml"):
        read_yaml(path)
    with pytest.raises(ConfigError):
        message_spec(None, [], path)


@pytest.mark.parametrize("value", ["{a: 1, a: 2}", DEEP[:5000], "&a [*a]"], ids="tdr")
def test_options_of_the_command_line_are_refused(value):
    with pytest.raises(ConfigError, match="--option levels"):
        message_spec("uniform", [f"levels={value}"], None)


def test_aliases_that_end_are_read():
    assert parse_yaml("a: &a {k: [1, 2]}\nb: [*a, *a]\nc: {<<: *a, l: 3}", "it")["c"] == {"k": [1, 2], "l": 3}
