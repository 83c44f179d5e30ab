"""The mathematics and the code point at each other: sections name functions, and functions name their section."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "workflow/tokenbounds"
PAGE = (ROOT / "docs/bounds.md").read_text(encoding="utf-8")
LINK = re.compile(r'docs/bounds\.md,\s+"([^"]+)"')
FILES = sorted(path for package in ("bounds", "certificates") for path in (LIBRARY / package).rglob("[a-z]*.py"))
MODULES = {path.stem: ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts) for path in FILES}


def sections(page):
    """Text of each section by its heading; a section's text includes that of its sub-sections."""
    parts = re.split(r"^(#{2,}) (.+)$", page, flags=re.MULTILINE)[1:]
    found, parent = {}, ""
    for depth, title, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        found[title] = text
        if len(depth) == 2:
            parent = title
        else:
            found[parent] += text
    return found


def named_functions(text):
    """Names `module.name` in a text, and plain `name`s after one that belong to the same module."""
    module = None
    for dotted, plain in re.findall(r"`([a-z_]+\.[A-Za-z_]+)[^`]*`|`([A-Za-z_]+)[^`]*`", text):
        if dotted and dotted.split(".")[0] in MODULES:
            module = dotted.split(".")[0]
            yield dotted
        elif plain and module is not None and hasattr(_import(module), plain):
            yield f"{module}.{plain}"


def _import(module):
    return importlib.import_module(MODULES[module])


SECTIONS = sections(PAGE)
NAMED = sorted({(name, title) for title, text in SECTIONS.items() for name in named_functions(text)})
LINKS = sorted({(path, title) for path in FILES for title in LINK.findall(path.read_text("utf-8"))})


def test_modules_have_names_of_their_own():
    assert len(MODULES) == len(FILES)


def test_there_is_something_to_check():
    names = {name for name, _ in NAMED}
    assert {
        "azuma.bound_azuma",
        "betting.bound_betting",
        "telescoped.bound_telescoped",
        "smoothing.loss_range",
    } <= names
    assert len(LINKS) > 20


@pytest.mark.parametrize("name", sorted({name for name, _ in NAMED}))
def test_a_function_that_the_page_names_links_to_a_section_that_names_it(name):
    module, attribute = name.split(".")
    text = getattr(_import(module), attribute).__doc__ or ""
    titles = {title for other, title in NAMED if other == name}
    assert titles & set(LINK.findall(text)), f"{name} should link to one of {sorted(titles)}"


@pytest.mark.parametrize(("path", "title"), LINKS, ids=[f"{path.stem}-{title}" for path, title in LINKS])
def test_a_link_resolves(path, title):
    assert title in SECTIONS


def test_the_contents_resolve():
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in SECTIONS}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors


def test_a_dead_link_is_noticed():
    assert "Betting the house" not in SECTIONS
    assert list(named_functions("`azuma.bound_azuma`, `bound_azuma_predictable` and `other`")) == [
        "azuma.bound_azuma",
        "azuma.bound_azuma_predictable",
    ]
