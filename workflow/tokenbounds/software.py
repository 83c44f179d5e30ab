"""Which software runs here: versions for records, and folders of installed packages."""

from __future__ import annotations

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from tokenbounds import __version__
from tokenbounds.files import sha256_bytes, sha256_file


def software_versions(*packages: str) -> dict[str, str]:
    """Versions by name: of this library, of Python, and of packages; `absent` for one that is not installed."""
    versions = {"tokenbounds": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions


def distribution_version(package: str) -> str:
    """The version of the distribution that installed a package; `unknown` for a folder that none did."""
    distributions = packages_distributions().get(package, [])
    return version(distributions[0]) if distributions else "unknown"


def package_folder(package: str) -> Path | None:
    """The folder of an installed top-level package, found without importing it; None if there is none."""
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def program_sha256() -> str:
    """SHA-256 of this library's source: of lines `<SHA-256>  <path>` for its Python files, in order of paths."""
    folder = Path(__file__).parent
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    return sha256_bytes("".join(f"{sha256_file(folder / path)}  {path}\n" for path in paths).encode())
