"""Refinements and fine-tunes in tables, figures and pages: what is paid for, and the side information."""

import io

import pytest
from json_certificates import write_certificate
from report_study import certificate_dict
from rich.console import Console
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.console import show_certificate
from tokenbounds.report.figure_data import anatomy_table
from tokenbounds.report.formats import format_bytes
from tokenbounds.report.page import write_certificate_page

COARSE = {"name": "coarse", "file": "../messages/coarse.tbm", "sha256": "c" * 64, "size_bits": 4000}
BASE = {"name": "published", "place": "../models/published", "sha256": "b" * 64}


@pytest.fixture
def path(tmp_path):
    raw = certificate_dict("fine", size_bits=8000)
    raw["message"] |= {"coarse": COARSE, "base": BASE}
    write_certificate(tmp_path / "fine.json", raw)
    return tmp_path / "fine.json"


def test_a_refinement_s_size_is_that_of_both_messages(path):
    certificate = read_certificate(path)
    assert certificate.message.whole_bits == 12_000
    assert certificate.message.whole_breakdown["coarse message"] == 4000
    table = anatomy_table([certificate])
    assert table["size_bits"].sum() == 12_000
    assert table["share"].sum() == pytest.approx(1.0)


def test_pages_and_terminals_name_the_base_and_the_coarse_message(path, tmp_path):
    write_certificate_page(path, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "what differs from the base published as two files, coarse and fine: 12,000 bits" in page
    text = io.StringIO()
    show_certificate(Console(file=text, width=200), read_certificate(path))
    assert f"a language model that adds {format_bytes(12_000)} to the base published needs at most" in page
    sentence = "the expected loss of the compressed model over the base 'published' (bbbbbbbb…), averaged"
    assert sentence.replace("'", "&#39;") in page and sentence in " ".join(text.getvalue().split())
    for shown in (page, text.getvalue()):
        assert "../models/published" in shown
        assert "../messages/coarse.tbm" in shown
