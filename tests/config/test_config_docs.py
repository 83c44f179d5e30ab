import json
import re
from dataclasses import is_dataclass

import pytest
from tokenbounds import config
from tokenbounds.config import docs as config_docs
from tokenbounds.config.quantizers import QUANTIZERS


def properties(schema):
    """Every property of a JSON schema, with its place."""
    for name, definition in {"": schema, **schema["$defs"]}.items():
        for key, value in definition.get("properties", {}).items():
            yield f"{name}.{key}", value


def undescribed(schema):
    return [place for place, value in properties(schema) if not value.get("description", "").endswith((".", "…"))]


def test_the_schema_describes_every_key():
    schema = json.loads((config_docs.ROOT / config_docs.SCHEMA_FILE).read_text(encoding="utf-8"))
    assert len(list(properties(schema))) > 250
    assert undescribed(schema) == []
    schema["$defs"]["Training"]["properties"]["steps"].pop("description")
    assert undescribed(schema) == ["Training.steps"]


def test_every_type_of_the_configuration_is_documented():
    types = {value for value in vars(config).values() if isinstance(value, type) and is_dataclass(value)}
    types |= set(QUANTIZERS.values())
    assert types == {kind for _, kinds in config_docs._SECTIONS for kind in kinds}


@pytest.mark.parametrize(
    ("path", "render"),
    [(config_docs.SCHEMA_FILE, config_docs.render_schema), (config_docs.README_FILE, config_docs.render_readme)],
    ids=["schema", "readme"],
)
def test_generated_files_are_what_the_types_say(path, render):
    assert (config_docs.ROOT / path).read_text(encoding="utf-8") == render(), "run `make generate`"


def test_check_notices_a_stale_file_and_writing_mends_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config_docs, "ROOT", tmp_path)
    assert config_docs.main(["--check"]) == 1
    assert "make generate" in capsys.readouterr().out
    assert config_docs.main([]) == 0
    assert config_docs.main(["--check"]) == 0
    readme = tmp_path / config_docs.README_FILE
    readme.write_text(readme.read_text().replace("Optimizer steps", "Steps"))
    assert config_docs.main(["--check"]) == 1


def test_the_schema_refuses_unknown_keys_everywhere():
    schema = json.loads(config_docs.render_schema())
    objects = [definition for definition in [schema, *schema["$defs"].values()] if "properties" in definition]
    assert len(objects) > 15
    assert all(definition.get("additionalProperties") is False for definition in objects)


def test_the_readme_shows_types_limits_and_defaults():
    text = config_docs.render_readme()
    assert "| `order` | integer (≥ 0, ≤ 6) | `1` |" in text
    assert "| `stride` | integer (≥ 1) or `null` | `null` |" in text
    kinds = (
        "`python_stdlib`, `python_topics`, `arithmetic`, `integer_sequences`, `text`, `jsonl`, `parquet`, `huggingface`"
    )
    assert f"| `source` | of `kind` {kinds}, `reference`, `airr`, `oas`, `fasta`, `csv` | required |" in text
    assert "### `kind: lora`" in text
    assert not re.search(r"typing\.|FieldInfo|<class", text)


def test_the_smallest_study_of_the_readme_is_valid(tmp_path):
    example = re.search(r"```yaml\n(.*?)```", config_docs.render_readme(), re.DOTALL)
    assert example is not None
    path = tmp_path / "study.yaml"
    path.write_text(example.group(1))
    assert config.load_study(path).evaluations["default"].context == 256
