"""The CSV of each table of a page, which is inside the page."""

import csv
import io
import json
import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from report_study import write_study
from tokenbounds.report.compression import compression_section
from tokenbounds.report.page import write_report
from tokenbounds.report.spreadsheet import rows_to_csv
from tokenbounds.report.table_boxes import box_tables, table_rows

_DOWNLOAD = re.compile(r'<a download="([^"]+)\.csv" href="data:text/csv;charset=utf-8,([^"]*)">')


def downloads(html):
    """The rows of every table that can be downloaded, by its name."""
    return {name: list(csv.reader(io.StringIO(unquote(data)))) for name, data in _DOWNLOAD.findall(html)}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    paths = write_study(root, scores=False)[:2]
    write_report(paths, root / "report.html", sections=compression_section(paths))
    return [json.loads(path.read_text()) for path in paths], (root / "report.html").read_text()


def test_every_table_is_in_a_box_with_a_download(report):
    _, html = report
    tables, boxes = html.count("<table"), re.findall(r'<div class="wide" tabindex="0" role="group" aria-label=', html)
    assert tables == len(boxes) == len(downloads(html)) == 6


def test_a_download_has_the_exact_numbers(report):
    certificates, html = report
    raw = certificates[0]
    table = downloads(html)[f"cert-{raw['certificate']}-1"]
    header, lines = table[0], [dict(zip(table[0], line, strict=True)) for line in table[1:]]
    assert header[:5] == ["metric", "bound", "certified", "measured", "gap"]
    for row in raw["rows"]:
        name = "BPD" if row["metric"] == "bpd" else row["metric"].replace("top", "top-").replace("_", " ")
        (line,) = [each for each in lines if (each["metric"], each["bound"]) == (name, row["bound"])]
        for column, key in {"certified": "value", "measured": "empirical", "gap": "gap", "range": "range"}.items():
            assert float(line[column]) == row[key]
    rounded = html.replace(f' data-value="{raw["rows"][0]["gap"]!r}"', "")  # a cell without its exact value
    assert rounded != html and str(raw["rows"][0]["gap"]) not in {
        cell
        for table in re.findall(r"<table.*?</table>", rounded, re.DOTALL)
        for row in table_rows(table)
        for cell in row
    }


def test_numbers_have_no_separators_and_gaps_are_empty():
    table = "<table><tr><th>a</th><td>1,234,567.5</td><td>–</td><td>1, 2</td><td>10.4\u00a0%</td></tr></table>"
    assert table_rows(table) == [["a", "1234567.5", "", "1, 2", "10.4 %"]]


def test_formulas_are_text_and_negative_numbers_are_numbers():
    assert rows_to_csv([["=1+1", "-0.5", "+1e-3", "-a", "@x"]]) == "'=1+1,-0.5,+1e-3,'-a,'@x\n"


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["C", "Z"])), min_size=2, max_size=2), min_size=1))
def test_any_text_comes_back(rows):
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    html = box_tables(f'<section id="s"><div class="wide"><table>{cells}</table></div></section>')
    assert html.count("<a ") == 1
    expected = list(csv.reader(io.StringIO(rows_to_csv(table_rows(f"<table>{cells}</table>")))))
    assert downloads(html) == {"s-1": expected}
