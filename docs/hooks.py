"""Hooks of the documentation site (mkdocs.yml): pages from files outside docs/, and formulas as MathML."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from xml.etree import ElementTree

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# Files of the repository that become pages of the site unchanged. Links between them are rewritten to the pages.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "config/README.md": "configuration.md",
}
COPIES = ("CITATION.cff",)  # files that pages link to
STUDIES = "studies.md"
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)")  # a link's target, without its anchor
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
_MATHML = "http://www.w3.org/1998/Math/MathML"
_NAMES = {"ln", "log", "exp", "max", "min", "sup", "inf", "kl"}
_OPENING, _CLOSING = "([{,", ")]}"
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(\\\(|\\\[)(.*?)(\\\)|\\\])</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are written elsewhere in the repository."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_relink(text, source)))
    for source in COPIES:
        files.append(File.generated(config, source, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, STUDIES, content=_render_studies()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ at the pages made of those files."""
    own = page.file.abs_src_path
    return _relink(markdown, Path(own).relative_to(ROOT).as_posix()) if own else markdown


def on_page_content(html_text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Render every formula as MathML, which browsers show without scripts or fonts from elsewhere."""

    def render(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        formula = _space(convert(html.unescape(found[3]).strip(), display=display))
        return f'<div class="formula">{formula}</div>' if display == "block" else formula

    return _FORMULA.sub(render, html_text)


def _space(formula: str) -> str:
    """Set the spaces of a formula as TeX does: thin ones around ln, max, …; none around a slash or a leading sign."""
    ElementTree.register_namespace("", _MATHML)
    root = ElementTree.fromstring(formula)
    for row in list(root.iter()):
        children = list(row)
        if row.tag != f"{{{_MATHML}}}mrow":
            continue
        for before, child, after in zip([None, *children[:-1]], children, [*children[1:], None], strict=True):
            leads = before is None or (_is_sign(before) and _text(before) in _OPENING)
            if _text(child) == "/" or (leads and _text(child) == "<"):
                child.attrib.update(lspace="0", rspace="0")
            elif leads and _text(child) == "−":
                child.set("form", "prefix")
            elif _is_name(child) and after is not None and not _is_sign(after):
                row.insert(list(row).index(child) + 1, _thin_space())
            if _is_name(child) and before is not None and (not _is_sign(before) or _text(before) in _CLOSING):
                row.insert(list(row).index(child), _thin_space())
    return ElementTree.tostring(root, encoding="unicode")


def _text(element: ElementTree.Element) -> str:
    return (element.text or "").strip()


def _is_name(element: ElementTree.Element) -> bool:
    """Whether an element is a function's name, perhaps with an index."""
    return _text(element) in _NAMES or (len(element) > 0 and _text(element[0]) in _NAMES)


def _is_sign(element: ElementTree.Element) -> bool:
    """Whether an element is a bracket, a comma, a relation or an operation: those have spaces of their own or none."""
    return element.tag == f"{{{_MATHML}}}mo" and _text(element) not in _NAMES


def _thin_space() -> ElementTree.Element:
    return ElementTree.Element(f"{{{_MATHML}}}mspace", width="0.1667em")


def _relink(text: str, source: str) -> str:
    """Rewrite the links of a file of the repository as links between pages; code is left alone."""
    own_page = PAGES.get(source, source.removeprefix("docs/"))

    def target(found: re.Match[str]) -> str:
        if re.match(r"[a-z]+:", found[0]):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[0]))
        page = STUDIES if path.startswith("config/studies") else PAGES.get(path, path.removeprefix("docs/"))
        return posixpath.relpath(page, posixpath.dirname(own_page) or ".")

    parts = _CODE.split(text)  # odd ones are code; a link around code has its target in the part behind
    return "".join(part if number % 2 else _LINK.sub(target, part) for number, part in enumerate(parts))


def _render_studies() -> str:
    """A page with every study that comes with the project, unchanged."""
    lines = ["# Studies", "", "Run one with `snakemake --cores all --configfile FILE`. What its rows mean:"]
    lines += ["[configuration](configuration.md).", ""]
    for path in [ROOT / "config/config.yaml", *sorted((ROOT / "config/studies").glob("*.yaml"))]:
        lines += [f"## {path.relative_to(ROOT)}", "", "```yaml", path.read_text(encoding="utf-8").rstrip(), "```", ""]
    return "\n".join(lines)
