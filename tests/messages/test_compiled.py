"""Compiled functions work where no cache can be written."""

import pytest
from numba.core import caching
from tokenbounds import compiled


def test_without_a_place_for_the_cache_functions_are_compiled_all_the_same(monkeypatch):
    locators = [value for name, value in vars(caching).items() if name.endswith(("Locator", "FsAgnostic"))]
    for locator in locators:
        monkeypatch.setattr(locator, "from_function", classmethod(lambda *_: None))
    with pytest.raises(RuntimeError, match="cannot cache"):
        compiled.njit(cache=True)(lambda x: x)
    assert compiled.compiled(error_model="numpy")(lambda x: x + 1)(1) == 2


def test_other_errors_of_the_compiler_are_not_hidden(monkeypatch):
    def fail(**_):
        raise RuntimeError("out of registers")

    monkeypatch.setattr(compiled, "njit", fail)
    with pytest.raises(RuntimeError, match="out of registers"):
        compiled.compiled()(lambda x: x)
