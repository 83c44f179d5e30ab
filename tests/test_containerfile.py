"""The container file keeps to the rules of good ones; each rule is broken once to see that it is kept."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")
LOCK = "envs/requirements.lock"


def instructions(text):
    """(name, argument) of each instruction, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def faults(text):
    """The rules that a container file breaks, in words."""
    steps = instructions(text)
    of = {name: [argument for each, argument in steps if each == name] for name, _ in steps}
    arguments = dict(one.split("=", 1) for one in of.get("ARG", ()) if "=" in one)
    bases = [re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], base) for base in of["FROM"]]
    runs, copies = " ".join(of.get("RUN", ())), of.get("COPY", ())
    found = {
        "the base has no registry and exact version": not all(
            re.fullmatch(r"docker\.io/library/python:3\.\d+\.\d+-[\w-]+(@sha256:[0-9a-f]{64})?", base) for base in bases
        ),
        "root runs it": of.get("USER", ["root"])[-1].split(":")[0] in ("root", "0"),
        "the lock is not what is installed": f"-r {LOCK}" not in runs,
        "the sources may change versions": re.search(r"pip install (?!.*--no-deps)[^&|]*\s\.(\s|$)", runs) is not None,
        "packages are installed after the sources": not any(
            LOCK in one for one in copies[: [*(one.split()[0] for one in copies), "workflow"].index("workflow")]
        ),
        "packages of the registry stay in a cache": "pip install" in runs
        and "PIP_NO_CACHE_DIR=1" not in " ".join(of.get("ENV", ())),
        "everything is copied": any(one.split()[0] in (".", "./") for one in copies),
        "something is fetched without a hash": "ADD" in of or re.search(r"\b(curl|wget|git clone)\b", runs) is not None,
        "the entry point is a shell's": any(not one.startswith("[") for one in of.get("ENTRYPOINT", ["none"])),
        "a secret is in it": re.search(r"(?i)(password|passwd|secret|token|api_?key)\w*\s*=", text) is not None,
        "more rights than a user's": "sudo" in runs or "--privileged" in text or "chmod 777" in runs,
    }
    return [rule for rule, is_broken in found.items() if is_broken]


def test_the_file_breaks_no_rule():
    assert faults(TEXT) == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("ARG PYTHON=3.11.14-slim-bookworm", "ARG PYTHON=latest", "registry and exact version"),
        ("USER 1000\n", "", "root runs it"),
        ("USER 1000\n", "USER 0:0\n", "root runs it"),
        (f"-r {LOCK}", "torch transformers", "lock is not"),
        ("--no-deps .", ".", "may change versions"),
        (f"COPY {LOCK} envs/\n", "", "after the sources"),
        ("PIP_NO_CACHE_DIR=1 ", "", "in a cache"),
        ("COPY workflow workflow", "COPY . .", "everything is copied"),
        ("COPY workflow workflow", "ADD https://example.org/x.tar /\nCOPY workflow workflow", "without a hash"),
        ('ENTRYPOINT ["tokenbounds"]', "ENTRYPOINT tokenbounds", "a shell's"),
        ("WORKDIR /work\n", "ENV HF_TOKEN=hf_x\n", "secret"),
        ("mkdir /work", "mkdir /work && chmod 777 /work", "more rights"),
    ],
)
def test_a_broken_rule_is_found(old, new, rule):
    assert old in TEXT
    assert any(rule in fault for fault in faults(TEXT.replace(old, new)))


def test_what_is_copied_is_there_and_is_not_ignored():
    allowed = [line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")]
    for name, argument in instructions(TEXT):
        for source in argument.split()[:-1] if name == "COPY" else ():
            assert (ROOT / source).exists() and source in allowed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = [each for files in project["tool"]["setuptools"]["data-files"].values() for each in files]
    assert all(any(each == one or each.startswith(f"{one}/") for one in allowed) for each in data)


def test_its_python_is_one_that_the_project_supports():
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    used = re.search(r"PYTHON=3\.(\d+)\.", TEXT)[1]
    assert int(used) >= int(re.fullmatch(r">=3\.(\d+)", least)[1])
