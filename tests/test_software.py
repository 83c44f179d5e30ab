"""Versions and folders of installed packages."""

import sys

import numpy
import tokenbounds
from tokenbounds.software import distribution_version, package_folder, software_versions


def test_versions_say_what_is_there_and_what_is_not():
    versions = software_versions("numpy", "no-such-package")
    assert versions == {
        "tokenbounds": tokenbounds.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "numpy": numpy.__version__,
        "no-such-package": "absent",
    }


def test_a_package_is_found_by_the_name_it_is_imported_by():
    assert distribution_version("yaml") == software_versions("PyYAML")["PyYAML"]
    assert distribution_version("no_such_package") == "unknown"


def test_folders_are_found_without_importing(tmp_path, monkeypatch):
    (tmp_path / "unimported").mkdir()
    (tmp_path / "unimported" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folder("unimported") == tmp_path / "unimported"
    assert package_folder("unimported.inner") is None  # looking for it would import the package
    assert package_folder("no_such_package") is None
    assert package_folder("this") is None  # a module, not a folder
