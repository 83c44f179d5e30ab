import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from json_certificates import write_certificate
from markupsafe import Markup
from report_study import certificate_dict, write_study, write_training
from tokenbounds.bounds.kinds import BPD, Metric
from tokenbounds.errors import TokenboundsError
from tokenbounds.report.figures import draw_figures
from tokenbounds.report.formats import format_value
from tokenbounds.report.inline_svg import inline_svg
from tokenbounds.report.page import Section, write_certificate_page, write_report

HOSTILE = """<script>alert(1)</script>"'&{{ 7*7 }} onload=x"""


class Page(HTMLParser):
    """What the tests ask of a page: its ids, links, texts, elements and balance."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.tags, self.cells, self.stack, self.text = [], [], [], [], [], []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.stack += [] if tag in self.VOID else [tag]
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[key] for key in ("href", "xlink:href", "src") if key in values]
        if tag == "data":
            link = next((old["href"] for name, old in reversed(self.tags) if name == "a"), None)
            self.cells.append([link if "a" in self.stack else None, float(values["value"]), ""])

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.stack and self.stack[-1] == "data":
            self.cells[-1][2] += data


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    paths = write_study(root)
    training = {"lora": write_training(root / "models" / "lora" / "training.parquet")}
    figures = draw_figures(paths[:3], root / "figures", training=training)
    out = root / "report.html"
    write_report(paths, out, figures=figures)
    return paths, out, Page(out.read_text())


def test_ids_are_unique_and_every_link_leads_somewhere(report):
    _, out, page = report
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:text/csv;charset=utf-8,"):
            assert not re.match(r"[a-z]+:|//|/", link)
            assert (out.parent / unquote(link)).is_file()


def test_nothing_is_loaded_and_nothing_runs(report):
    tags = report[2].tags
    assert not {"script", "link", "img", "iframe", "object", "image"} & {tag for tag, _ in tags}
    assert not [key for _, values in tags for key in values if key.startswith("on")]
    assert not re.search(r"@import|url\((?!#)", report[1].read_text())


def test_every_number_of_the_tables_is_the_certificates_and_links_to_it(report):
    paths, _, page = report
    linked = {(link, value) for link, value, _ in page.cells if link}
    stated = {}
    for path in paths:
        raw = json.loads(path.read_text())
        for row in raw["rows"]:
            stated.setdefault((f"#cert-{raw['certificate']}", row["metric"]), []).append(row["value"])
    expected = set()
    for (link, metric), values in stated.items():
        expected |= {(link, value) for value in (values if metric == "bpd" else [min(values)])}
    assert linked == expected
    everything = sorted(value for values in stated.values() for value in values)
    assert sorted(value for link, value, _ in page.cells if link is None) == everything


def test_shown_numbers_are_the_exact_ones_rounded_up(report):
    shown = {(value, text) for _, value, text in report[2].cells}
    for value, text in shown:
        assert text in (format_value(BPD, value), format_value(Metric.top(1), value))
        assert float(text.removesuffix("%")) * (0.01 if "%" in text else 1) >= value - 1e-12


def test_flags(report):
    paths, _, page = report
    data = [values for tag, values in page.tags if tag == "data"]
    vacuous = {float(values["value"]) for values in data if values.get("class") == "vacuous"}
    rows = [row for path in paths for row in json.loads(path.read_text())["rows"]]
    assert vacuous == {row["value"] for row in rows if row["vacuous"]}
    best = [float(values["value"]) for values in data if values.get("class") == "best"]
    metrics = {row["metric"] for row in rows}
    smallest = [min(row["value"] for row in rows if row["metric"] == metric) for metric in metrics]
    assert sorted(best) == sorted(smallest)


def test_it_opens_with_the_sentence(report):
    text = " ".join("".join(report[2].text).replace("\u00a0", " ").split())
    assert (
        "With probability at least 95 %, a language model that fits in 65 kB needs at most 3.752 bits per byte" in text
    )
    assert "guessing needs 8." in text


def one_certificate(root, **changes):
    path = root / "certificates" / "c.json"
    write_certificate(path, {**certificate_dict(), **changes})
    return path


def test_hostile_texts_are_escaped_everywhere(tmp_path):
    raw, name = certificate_dict(), HOSTILE.replace("\"'", "")  # a certificate with quotes in a name is refused
    message = {**raw["message"], "name": name, "breakdown": {HOSTILE: raw["message"]["size_bits"]}}
    message["header"] = {HOSTILE: HOSTILE}
    changes = dict.fromkeys(("certificate", "study", "corpus", "model"), name)
    manifest = {**raw["manifest"], "source": {HOSTILE: HOSTILE}, "licence": HOSTILE}
    changes |= {"message": message, "manifest": manifest, "notes": [HOSTILE], "assumptions": [HOSTILE]}
    changes |= {"software": {HOSTILE: HOSTILE}}
    path = one_certificate(tmp_path, **changes)
    write_report([path], tmp_path / "report.html", sections=[Section("more", HOSTILE, HOSTILE)])
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [key for _, values in page.tags for key in values if key.startswith("on")]
    assert HOSTILE in "".join(page.text)
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))


def test_a_page_of_vacuous_certificates_says_so(tmp_path):
    path = tmp_path / "c.json"
    write_certificate(path, certificate_dict(size_bits=10**9))
    write_report([path], tmp_path / "report.html")
    assert "does not beat random guessing" in (tmp_path / "report.html").read_text()


def test_a_page_without_bpd(tmp_path):
    rows = [row for row in certificate_dict()["rows"] if row["metric"] != "bpd"]
    write_report([one_certificate(tmp_path, rows=rows)], tmp_path / "report.html")
    assert "top-1 error of at most" in (tmp_path / "report.html").read_text()


def test_a_sampled_certificate_says_how_it_was_scored(tmp_path):
    raw = certificate_dict(mode="sampled")
    rows = [{**row, "sampling": 0.01} for row in raw["rows"]]
    path = one_certificate(tmp_path, plan=raw["plan"], rows=rows, scored_tokens=1_000_000)
    write_report([path], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "a sample of 41,000 draws, seed 0: 1,000,000 of 10,600,000 bytes" in text
    assert "1,000,000 of them scored" in text


def test_sections_slot_in_and_their_ids_must_be_new(tmp_path):
    path = one_certificate(tmp_path)
    section = Section("antibodies", "Antibodies", Markup("<p>By <b>region</b></p>"))
    write_report([path], tmp_path / "report.html", sections=[section])
    text = (tmp_path / "report.html").read_text()
    assert '<section id="antibodies">' in text
    assert "<b>region</b>" in text
    assert 'href="#antibodies"' in text
    for taken in ("details", "cert-lora-16"):
        with pytest.raises(TokenboundsError, match=f"'{taken}'"):
            write_report([path], tmp_path / "report.html", sections=[Section(taken, "x", "y")])


@pytest.mark.parametrize(
    "body",
    [
        "<script>1</script>",
        '<rect onclick="1"/>',
        '<a href="#x"/>',
        '<use xlink:href="http://x/y"/>',
        '<rect style="fill: url(http://x)"/>',
        "<foreignObject/>",
    ],
)
def test_figures_with_active_content_are_refused(tmp_path, body):
    path = tmp_path / "figure.svg"
    path.write_text(f'<svg viewBox="0 0 1 1">{body}</svg>')
    with pytest.raises(TokenboundsError, match=r"figure\.svg"):
        inline_svg(path, "label")


def test_figures_follow_the_page_colours(tmp_path):
    path = tmp_path / "figure.svg"
    path.write_text(
        '<svg viewBox="0 0 1 1"><path id="a" style="fill: #ffffff; stroke: #0b6bb0"/><use href="#a"/></svg>'
    )
    svg = inline_svg(path, 'a "label"')
    assert 'style="fill: var(--paper); stroke: var(--series-0)"' in svg
    assert 'id="figure-a"' in svg
    assert 'href="#figure-a"' in svg
    assert "&#34;label&#34;" in svg


def test_one_certificate_as_a_page(tmp_path):
    path = write_study(tmp_path)[0]
    raw = json.loads(path.read_text())
    write_certificate_page(path, tmp_path / "pages" / "one.html")
    text = (tmp_path / "pages" / "one.html").read_text()
    page = Page(text)
    words = " ".join("".join(page.text).split())
    best = min(row["value"] for row in raw["rows"] if row["metric"] == "bpd")
    assert format_value(BPD, best) in words and "With probability at least 95" in words
    assert all(" ".join(each.split()) in words for each in raw["assumptions"])
    assert all(part in words for part in raw["message"]["breakdown"])
    assert raw["certificate_sha256"] in words and raw["message"]["sha256"] in words
    assert f"tokenbounds verify {path}" in words and "delta generalization" in words
    assert unquote(f"../{path.relative_to(tmp_path)}") in map(unquote, page.links)
    assert "certificates" not in page.ids and page.tags.count(("details", {"open": None})) == 2
    assert not [link for link in page.links if link.startswith("#") and link[1:] not in page.ids]
