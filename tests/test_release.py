"""What is said of the version is said in the same way everywhere."""

import re
from pathlib import Path

import pytest
import tokenbounds
import yaml

ROOT = Path(__file__).parents[1]


def stated(root):
    """The version by each file that states it."""
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    heading = re.search(r"^## (\S+) \((\d{4}-\d{2}-\d{2})\)$", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    module = re.search(r'tag="v([\d.]+)"', (root / "docs/howto/cluster.md").read_text(encoding="utf-8"))
    assert str(citation["date-released"]) == heading[2]
    return {"CITATION.cff": citation["version"], "CHANGELOG.md": heading[1], "docs/howto/cluster.md": module[1]}


def test_every_file_states_the_version_of_the_package():
    assert set(stated(ROOT).values()) == {tokenbounds.__version__}


def test_another_date_or_version_is_noticed(tmp_path):
    (tmp_path / "docs/howto").mkdir(parents=True)
    for name in ("CITATION.cff", "CHANGELOG.md", "docs/howto/cluster.md"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "CITATION.cff").write_text("version: 0.0.1\ndate-released: 2020-01-01\n")
    with pytest.raises(AssertionError):
        stated(tmp_path)
    log = (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(
        re.sub(r"^## .*$", "## 0.3.0 (2020-01-01)", log, count=1, flags=re.MULTILINE)
    )
    assert stated(tmp_path)["CITATION.cff"] != tokenbounds.__version__ != stated(tmp_path)["CHANGELOG.md"]
