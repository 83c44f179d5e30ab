"""The tiny study of certified_study, once per session, scored in full and from a sample."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from certified_study import TinyStudy
from tokenbounds.certificates import verify
from tokenbounds.errors import TokenboundsError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "verifier"))
import second_verifier


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """Every token scored once."""
    return TinyStudy(tmp_path_factory.mktemp("results")).build()


@pytest.fixture(scope="session")
def centred_study(study: TinyStudy) -> TinyStudy:
    """The same with entropies."""
    return replace(study, evaluation="centred", entropies=True).build()


@pytest.fixture(scope="session")
def sampled_study(study: TinyStudy) -> TinyStudy:
    """The same message and corpus, on a sample of blocks."""
    return replace(study, evaluation="sampled", sample_tokens=900).build()


_UNSEEN = re.compile(
    r"--base|does not decode|decoded message|more have a rank above|new losses|average|'assumptions|'notes|its reason"
    r"|first choices|--root|separate output embedding"
)
"""Words of the first verifier for what the second one, by its own account, does not check."""

_UNKNOWN = r".*(of a bound that it does not know).*"
"""What the second verifier may leave unchecked in a certificate that passes, and says so."""


def second_opinion_of(path: Path) -> tuple[str, str]:
    """What the second verifier says against a certificate, and what it left unchecked of rows and fields."""
    try:
        _, left = second_verifier.verify(path)
    except Exception as error:
        return f"{type(error).__name__}: {error}", ""
    return "", "; ".join(each for each in left if each.startswith(("ROW", "field")))


@pytest.fixture(autouse=True)
def second_opinion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second verifier see whatever a test verifies: it must come to the same conclusion."""
    checks = verify._run_checks

    def run_both(path: Path, *arguments: Any) -> Iterator[Any]:
        refused, left = second_opinion_of(Path(path))
        try:
            yield from checks(path, *arguments)
        except TokenboundsError as error:
            assert refused or left or _UNSEEN.search(str(error)), f"the second verifier passes: {error}"
            raise
        assert not refused, f"the second verifier refuses what the first one passes: {refused}"
        assert not re.sub(_UNKNOWN, "", left), f"the second verifier does not know {left}"

    monkeypatch.setattr(verify, "_run_checks", run_both)
