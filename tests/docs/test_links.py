"""Links between the project's own pages lead somewhere, in the repository itself and without building the site."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = {ROOT / "docs/api.md"}  # its headings come from docstrings; building the site checks links to them
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "config/README.md", *ROOT.glob("docs/**/*.md")])
SITE = {"configuration.md": "config/README.md", "studies.md": "config/config.yaml"}  # pages that the site makes
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(#[^)\s]*)?\)")


def anchors(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page):
    for path, anchor in LINK.findall(CODE.sub("`", page.read_text())):
        target = (page.parent / path).resolve() if path else page
        if target.parent == ROOT / "docs" and target.name in SITE:
            target = ROOT / SITE[target.name]
        if not target.exists():
            yield path
        elif anchor and target.suffix == ".md" and target not in GENERATED and anchor[1:] not in anchors(target):
            yield path + anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert list(broken_links(page)) == []


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](#a-title) [b](#b-title) [c](gone.md) `[d](code.md)` [e](https://example.org)\n")
    assert list(broken_links(page)) == ["#b-title", "gone.md"]
