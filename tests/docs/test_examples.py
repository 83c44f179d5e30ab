"""The documentation's own examples: those marked `<!-- run -->` run, page by page, in order, in an empty folder."""

import re
from pathlib import Path

import pytest
import yaml
from tokenbounds.config import load_study

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
MARKED = re.compile(r"^<!-- run -->\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
ANY_YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
YAML = re.compile(r"^```yaml\n(study:.*?)^```", re.MULTILINE | re.DOTALL)


def run_page(text, name):
    """Run a page's marked examples one after the other; a traceback shows the page's own lines."""
    namespace = {"__name__": "example"}
    for found in MARKED.finditer(text):
        lines = "\n" * text.count("\n", 0, found.start(1))
        exec(compile(lines + found[1], name, "exec"), namespace)
    return namespace


@pytest.mark.parametrize(
    "page", [page for page in PAGES if MARKED.search(page.read_text())], ids=lambda page: page.stem
)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text(), str(page))


def test_every_mark_stands_before_an_example():
    for page in PAGES:
        text = page.read_text()
        assert len(MARKED.findall(text)) == text.count("<!-- run -->"), page
    assert len(MARKED.findall((ROOT / "docs/quickstart.md").read_text())) >= 6


@pytest.mark.parametrize("broken", ["import tokenbounds as tb\ntb.no_such_function()", "assert 1 == 2"])
def test_a_broken_example_fails_at_its_line(broken):
    page = f"# Page\n\n<!-- run -->\n```python\n{broken}\n```\n"
    with pytest.raises((AttributeError, AssertionError)) as failure:
        run_page(page, "page.md")
    assert failure.traceback[-1].lineno + 1 == 5 + broken.count("\n")


def test_an_example_without_a_mark_is_valid_python():
    for page in PAGES:
        for found in PYTHON.finditer(page.read_text()):
            compile(found[1], str(page), "exec")


@pytest.mark.parametrize("page", [page for page in PAGES if YAML.search(page.read_text())], ids=lambda page: page.stem)
def test_studies_in_the_text_are_valid(page, tmp_path):
    for found in YAML.finditer(page.read_text()):
        study = tmp_path / "study.yaml"
        study.write_text(found[1])
        assert load_study(study).certificates
        study.write_text(found[1].replace("corpus: ", "corpse: "))
        with pytest.raises(Exception, match="corpse"):
            load_study(study)


def test_rows_in_the_text_are_valid(tmp_path):
    """The rows of docs/howto/quantized.md, added to the study that docs/howto/checkpoint.md ends with."""
    study = yaml.safe_load(YAML.search((ROOT / "docs/howto/checkpoint.md").read_text())[1])
    fragments = ANY_YAML.findall((ROOT / "docs/howto/quantized.md").read_text())
    for fragment in fragments:
        for section, rows in yaml.safe_load(fragment).items():
            study[section] = {**study.get(section, {}), **rows}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    assert set(load_study(path).messages) >= {"q4", "two-bits", "best", "tuned"}
    assert len(fragments) == 4
