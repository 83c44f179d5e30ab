"""Certificates of chains and of held-out models, next to ordinary ones."""

import io

import pytest
from json_certificates import write_certificate
from report_study import certificate_dict
from rich.console import Console
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.certificates.sentence import state_result
from tokenbounds.console import show_certificate
from tokenbounds.report.figure_data import size_table
from tokenbounds.report.page import write_certificate_page
from tokenbounds.report.page_content import cards, headline
from tokenbounds.report.plain_words import plain_words
from tokenbounds.report.records import best_rows, comparable, read_certificates
from tokenbounds.report.tables import SCHEMA, print_table, tabulate

REASON = "Published on 2025-01-31, before the text was written."

LINK = {"lambda": 0.1, "value": 1.5, "empirical": 1.4, "complexity": 100.0, "range": 9.0, "delta": 0.001}


def with_links(certificate):
    """Its betting row as a telescoped one of two messages."""
    row = next(row for row in certificate["rows"] if (row["metric"], row["bound"]) == ("bpd", "betting"))
    first = {**LINK, "messages": ["small"], "alphas": [0.01], "beta": 0.0, "weight": 0.5}
    names = ["small", certificate["message"]["name"]]
    second = {**LINK, "messages": names, "alphas": [0.01, 0.2], "beta": 0.5, "weight": 1.0}
    row.update({"bound": "telescoped", "alpha": None, "lambda": None, "links": [first, second]})
    ledger = next(row for row in certificate["ledger"]["rows"] if (row["metric"], row["bound"]) == ("bpd", "betting"))
    paid = [
        {"name": "message", "amount": bits, "unit": "bits", "link": place} for place, bits in ((1, 100), (2, 252_004))
    ]
    ledger.update({"bound": "telescoped", "entries": paid})
    return certificate


def with_documents(certificate):
    """Its azuma row as one over documents, with a value that flatters."""
    for rows in (certificate["rows"], certificate["ledger"]["rows"]):
        next(row for row in rows if (row["metric"], row["bound"]) == ("bpd", "azuma"))["bound"] = "documents"
    certificate["rows"][0].update(value=0.5, gap=-2.0)
    return certificate


@pytest.fixture
def paths(tmp_path):
    rows = [
        with_links(certificate_dict("chained")),
        with_documents(certificate_dict("documented", size_bits=260_000)),
        {
            **certificate_dict("held", empirical=1.9, model="held"),
            "prior": {"kind": "held_out", "trained_on": [], "because": REASON},
        },
    ]
    for row in rows:
        write_certificate(tmp_path / f"{row['certificate']}.json", row)
    return [tmp_path / f"{row['certificate']}.json" for row in rows]


def test_the_table_says_what_was_paid_under_which_prior(paths, tmp_path):
    assert SCHEMA.names[-4:] == ["paid_bits", "prior", "kl_bits", "first_choice_changed"]
    rows = tabulate(paths, tmp_path / "tables").to_pylist()
    assert {row["prior"] for row in rows if row["certificate"] == "held"} == {"held_out"}
    assert {row["paid_bits"] for row in rows if row["bound"] == "telescoped"} == {252_004}
    assert {row["paid_bits"] for row in rows if row["bound"] == "azuma" and row["certificate"] == "chained"} == {
        251_904
    }


def test_links_keep_their_numbers_in_terminals_of_80_columns(paths):
    text = io.StringIO()
    show_certificate(Console(file=text, width=80), read_certificate(paths[0]))
    links = text.getvalue().split("Links\n")[1].split("\nMessage")[0]
    assert "…" not in links
    for number in ("0.01", "0.2", "0.5", "1.5000", "1.4000", "9", "0.1"):
        assert number in links.replace("(", " ").replace(")", " ").split()


def test_only_rows_that_assume_no_more_than_others_are_called_best(paths, tmp_path):
    certificates = read_certificates(paths)
    chained = next(one for one in certificates if one.name == "chained")
    assert best_rows(certificates)["bpd"] == (chained, chained.row("bpd", "telescoped"))
    tabulate(paths, tmp_path / "tables")
    bold = [line for line in (tmp_path / "tables/certificates.md").read_text().splitlines() if "| **" in line]
    assert all("held" not in line and "documents" not in line for line in bold) and "telescoped" in bold[0]
    assert headline(certificates, {one.name: one.name for one in certificates})["certificate"] is chained
    held = [one for one in certificates if one.name == "held"]
    assert not best_rows(held) and headline(held, {"held": "held"})["compared"] == 0


def test_the_best_is_named_among_the_largest_group_of_equal_settings(tmp_path):
    rows = [certificate_dict(name, empirical=empirical) for name, empirical in (("a", 3.0), ("bb", 2.9), ("ccc", 2.8))]
    others = [certificate_dict(f"other-{index}", empirical=1.0) for index in range(7)]
    others[0]["plan"] = {**others[0]["plan"], "sha256": "0" * 64}
    others[1]["manifest"] = {**others[1]["manifest"], "sha256": "0" * 64}
    others[2]["dtype"] = "bfloat16"
    others[3]["bounds"] = {**others[3]["bounds"], "certificates_per_sample": 5}
    others[4]["prior"] = {"kind": "online", "trained_on": []}
    base = {"name": "base", "place": "../models/base", "sha256": "0" * 64}
    others[5]["message"] = {**others[5]["message"], "base": base}
    others[6]["ledger"]["rows"][1]["entries"].append({"name": "centre_grid", "amount": 3.5, "unit": "bits"})
    for row in [*rows, *others]:
        write_certificate(tmp_path / f"{row['certificate']}.json", row)
    certificates = read_certificates(sorted(tmp_path.glob("*.json")))
    assert [one.name for one in comparable(certificates)] == ["a", "bb", "ccc"]
    assert {one.name for one, _ in best_rows(certificates).values()} == {"ccc"}
    shown = headline(certificates, {one.name: one.name for one in certificates})
    assert (shown["certificate"].name, shown["compared"]) == ("ccc", 3)
    # Five certificates over a sample that pays for four do not hold together.
    crowd = [certificate_dict(f"sampled-{index}", empirical=1.0, mode="sampled") for index in range(5)]
    for row in crowd:
        write_certificate(tmp_path / "crowd" / f"{row['certificate']}.json", row)
    sampled = read_certificates((tmp_path / "crowd").glob("*.json"))
    assert (len(comparable(sampled)), len(comparable(sampled[:4]))) == (0, 4)
    # Of equally large groups, values choose none: the one that assumes fewer bases comes first.
    assert [one.name for one in comparable([one for one in certificates if one.name in ("a", "other-5")])] == ["a"]


def test_a_row_over_documents_is_no_certificate_s_headline(paths):
    documented = next(one for one in read_certificates(paths) if one.name == "documented")
    assert documented.row("bpd").bound == "betting"
    assert documented.row("bpd", "documents").value == 0.5


def test_a_certificate_about_documents_alone_says_so_on_its_page(tmp_path):
    raw = with_documents(certificate_dict("documented"))
    for rows in (raw["rows"], raw["ledger"]["rows"]):
        rows[:] = [row for row in rows if row["bound"] == "documents"]
    write_certificate(tmp_path / "documented.json", raw)
    write_certificate_page(tmp_path / "documented.json", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "on a new document of stdlib’s source; guessing" in page
    assert "if documents are independent draws" in page and "This is an average over the corpus" not in page


def test_the_terminal_and_the_page_say_what_is_held_out_or_mixed(paths):
    certificates = read_certificates(paths)
    console = Console(file=io.StringIO(), width=200)
    print_table(paths, console=console)
    assert "held (held out)" in console.file.getvalue()
    said = {one.name: state_result(one) for one in certificates}
    assert "the held-out model's expected loss" in said["held"]
    assert "mixed with cheaper ones (small)" in said["chained"]
    shown = {one.name: " ".join(card["text"] for card in cards(one)) for one in certificates}
    of_new = [card for card in cards(certificates[[*said].index("documented")]) if "new document" in card["text"]]
    limits = {one.name: " ".join(plain_words(one).says_not) for one in certificates}
    assert "rows over documents are about a new one" in limits["documented"] and "new one" not in limits["held"]
    assert [card["value"] for card in of_new] == ["0.500"] and "new document" not in shown["chained"] + shown["held"]
    assert "none paid for" in shown["held"] and "100 of cheaper models, all paid for" in shown["chained"]


def test_figures_of_message_size_leave_out_what_pays_for_none(paths):
    certificates = read_certificates(paths)
    table = size_table(certificates)
    assert set(table["certificate"]) == {"chained", "documented"}
    assert "documents" not in set(table["bound"])
    assert not size_table([one for one in certificates if one.name == "held"]).is_empty()
