"""The studies that come with the project are valid."""

import pytest
from tokenbounds.config import load_study
from tokenbounds.config.docs import ROOT

STUDIES = [ROOT / "config" / "config.yaml", *sorted((ROOT / "config" / "studies").glob("*.yaml"))]


def test_further_studies_are_found():
    assert len(STUDIES) > 1


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_valid_and_writes_to_a_folder_of_its_own(path):
    study = load_study(path)
    assert study.certificates
    others = [load_study(other).results for other in STUDIES if other != path]
    assert study.results not in others
