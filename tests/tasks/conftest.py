"""The invented study, made once."""

import pytest
from antibody_study import AntibodyStudy


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    return AntibodyStudy(tmp_path_factory.mktemp("antibodies"))
