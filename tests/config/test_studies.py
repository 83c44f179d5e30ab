"""The studies that come with the project are valid."""

import re

import pytest
from tokenbounds.cli import app
from tokenbounds.config import load_study
from tokenbounds.config.docs import ROOT
from typer.testing import CliRunner

STUDIES = [ROOT / "config" / "config.yaml", *sorted((ROOT / "config" / "studies").glob("*.yaml"))]


def test_further_studies_are_found():
    assert len(STUDIES) > 1


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_valid_and_writes_to_a_folder_of_its_own(path):
    study = load_study(path)
    assert study.certificates
    others = [load_study(other).results for other in STUDIES if other != path]
    assert study.results not in others


def test_every_study_says_what_it_shows_needs_and_costs_and_a_command_lists_them(monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, ["studies"])
    assert done.exit_code == 0, done.output
    for path in STUDIES:
        about = load_study(path).about
        words = f"{path.relative_to(ROOT)} shows {about.shows} needs {about.needs} costs {about.costs} certificates"
        assert words in " ".join(done.output.split())


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_gives_a_dated_reason_for_every_model_that_it_calls_held_out(path):
    rows = load_study(path).certificates.values()
    reasons = [row.held_out_because for row in rows if row.prior == "held_out"]
    assert all(re.search(r"\d{4}-\d{2}-\d{2}", reason) for reason in reasons)
    assert all(row.held_out_because is None for row in rows if row.prior != "held_out")


def test_nothing_is_held_out_on_text_older_than_the_model():
    """SmolLM2, published in 2024, is very likely to have seen Python's documentation and standard library."""
    for path in STUDIES:
        study = load_study(path)
        for row in study.certificates.values():
            models = [study.models[study.messages[name].model] for name in row.messages]
            if row.prior == "held_out" and any(model.kind == "pretrained" for model in models):
                assert study.corpora[row.corpus].source.kind not in ("python_topics", "python_stdlib")
