import io
import json

import polars as pl
import pytest
from json_certificates import write_certificate
from report_study import certificate_dict, write_study
from rich.console import Console
from tokenbounds.bounds.kinds import BPD, Metric
from tokenbounds.errors import CertificateError
from tokenbounds.report.formats import format_bytes, format_value, round_up
from tokenbounds.report.tables import SCHEMA, print_table, tabulate

CONTRACT = [
    "study",
    "corpus",
    "model",
    "message",
    "metric",
    "bound",
    "value",
    "empirical",
    "gap",
    "random_guess",
    "vacuous",
    "message_bits",
    "tokens",
    "vocabulary_size",
    "delta",
    "certificate",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    paths = write_study(root, scores=False)
    return paths, root / "tables", tabulate(paths, root / "tables")


def write(path, **changes):
    write_certificate(path, {**certificate_dict(), **changes})
    return path


def test_columns_begin_with_the_contract(study):
    _, directory, table = study
    assert table.schema.names[: len(CONTRACT)] == CONTRACT
    frame = pl.read_parquet(directory / "certificates.parquet")
    assert frame.columns == SCHEMA.names
    assert pl.read_csv(directory / "certificates.csv", schema=frame.schema).equals(frame)


def test_how_far_a_model_strays_has_columns_and_a_sentence(tmp_path):
    numbers = {"over": "tokens", "complexity": 0.0, "lambda": None, "delta": "0"}
    rows = [
        {"metric": "kl_bits", "value": 0.01234, "empirical": 0.01234, "range": 24.0, **numbers},
        {"metric": "first_choice_changed", "value": 0.034, "empirical": 0.034, "range": 1.0, **numbers},
    ]
    original = {"name": "base_model", "place": "../models/base_model", "sha256": "0" * 64}
    stated = {"original": original, "smoothing": 2.0**-16, "delta": "0", "rows": rows}
    bounds = certificate_dict()["bounds"] | {"faithfulness": True}
    path = write(tmp_path / "c.json", faithfulness=stated, bounds=bounds)
    found = tabulate([path], tmp_path).to_pylist()
    assert {(row["kl_bits"], row["first_choice_changed"]) for row in found} == {(0.01234, 0.034)}
    console = Console(file=io.StringIO(), width=200)
    print_table([path], console=console)
    shown = console.file.getvalue()
    assert " KL " in shown and "0.0124" in shown and "3.40 %" in shown
    text = (tmp_path / "certificates.md").read_text()
    assert "'base\\_model'" in text and "by at most 0.0124 bits" in text and "for at most 3.40 %" in text


def test_every_row_of_every_certificate_is_there_unchanged(study):
    paths, _, table = study
    found = {(row["certificate"], row["metric"], row["bound"]): row for row in table.to_pylist()}
    expected = 0
    for path in paths:
        raw = json.loads(path.read_text())
        for row in raw["rows"]:
            expected += 1
            cells = found[raw["certificate"], row["metric"], row["bound"]]
            for key in ("value", "empirical", "gap", "random_guess", "vacuous", "alpha", "lambda", "range", "sampling"):
                assert cells[key] == row[key]
            assert cells["complexity_nats"] == row["complexity"]
            assert cells["message_bits"] == raw["message"]["size_bits"]
            assert (cells["delta"], cells["row_delta"]) == (raw["delta"], row["delta"])
    assert table.num_rows == expected


def test_rows_are_sorted_by_corpus_metric_and_value(study):
    rows = study[2].to_pylist()
    keys = [(row["corpus"], Metric(row["metric"]).order, row["value"]) for row in rows]
    assert keys == sorted(keys)


def test_files_are_relative_to_the_table(study):
    paths, directory, table = study
    files = {(directory / row["certificate_file"]).resolve() for row in table.to_pylist()}
    assert files == {path.resolve() for path in paths}


def markdown_rows(directory):
    lines = (directory / "certificates.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]


def test_markdown_bolds_one_value_a_metric_and_flags_the_vacuous(study):
    _, directory, table = study
    rows = markdown_rows(directory)
    for metric, label in (("bpd", "BPD"), ("top1_error", "top-1 error")):
        group = [row for row in table.to_pylist() if row["metric"] == metric]
        shown = [row for row in rows if row[0] == label]
        bold = [row for row in shown if "**" in row[2]]
        best = min(group, key=lambda row: row["value"])
        assert [(row[1], row[9]) for row in bold] == [(best["bound"], best["certificate"])]
        assert sum("vacuous" in row[2] for row in shown) == sum(row["vacuous"] for row in group) > 0
        assert sum(row[5] == "random guess" for row in shown) == 1


def test_a_vacuous_best_is_not_bold(tmp_path):
    path = tmp_path / "certificates" / "huge.json"
    write_certificate(path, certificate_dict("huge", size_bits=10**9))
    tabulate([path], tmp_path)
    assert all("**" not in row[2] for row in markdown_rows(tmp_path))


def test_markdown_cells_cannot_be_broken_out_of(tmp_path):
    hostile = "a|b`<script> | x | [l](javascript:1)"
    tabulate([write(tmp_path / "c.json", corpus="c", certificate=hostile)], tmp_path)
    text = (tmp_path / "certificates.md").read_text()
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert all(len(line.replace("\\|", "").split("|")) == 13 for line in text.splitlines() if line.startswith("|"))


def test_numbers_are_rounded_up():
    assert round_up(3.8670001, 3) == "3.868"
    assert round_up(3.867, 3) == "3.867"
    assert round_up(0.1 + 0.2, 1) == "0.4"
    assert format_value(Metric.top(1), 0.7121) == "71.3\u00a0%"
    assert format_value(Metric.top(1), 0.57) == "57.0\u00a0%"
    assert format_value(BPD, 1e300).endswith(".000")


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (8, "1\u00a0bytes"),
        (1960, "245\u00a0bytes"),
        (251_904, "31.5\u00a0kB"),
        (8 * 738_000, "738\u00a0kB"),
        (8 * 10**9, "1\u00a0GB"),
    ],
)
def test_sizes(bits, text):
    assert format_bytes(bits) == text


def test_terminal_table_has_a_row_a_certificate_and_names_the_report(study):
    buffer = io.StringIO()
    print_table(study[0], "results/report.html", console=Console(file=buffer, width=160))
    lines = buffer.getvalue().splitlines()
    for path in study[0]:
        assert sum(line.startswith(f" {path.stem} ") for line in lines) == 1
    assert lines[-1] == "Report: results/report.html"
    assert sum("3.752" in line and "*" in line for line in lines) == 1


@pytest.mark.parametrize(("width", "errors"), [(100, 3), (80, 1), (70, 0)])
def test_a_narrow_terminal_has_all_names_and_bounds_and_the_errors_that_fit(study, width, errors):
    buffer = io.StringIO()
    print_table(study[0], console=Console(file=buffer, width=width))
    text = buffer.getvalue()
    assert all(f" {path.stem} " in text for path in study[0]) and " 3.752 *" in text and "…" not in text
    assert text.count("top-") == errors


def test_terminal_table_takes_markup_as_text(tmp_path):
    buffer = io.StringIO()
    print_table([write(tmp_path / "c.json", certificate="[red]x[/nonsense]")], console=Console(file=buffer, width=160))
    assert "[red]x[/nonsense]" in buffer.getvalue()


def test_faults_name_the_file(tmp_path):
    with pytest.raises(CertificateError, match="no certificate to report"):
        tabulate([], tmp_path)
    with pytest.raises(CertificateError, match=r"missing\.json"):
        tabulate([tmp_path / "missing.json"], tmp_path)
    one, other = write(tmp_path / "one.json"), write(tmp_path / "other.json")
    with pytest.raises(CertificateError, match=r"both named 'lora-16'"):
        tabulate([one, other], tmp_path)
    rows = certificate_dict()["rows"]
    lying = write(tmp_path / "lying.json", rows=[{**rows[0], "vacuous": not rows[0]["vacuous"]}, *rows[1:]])
    with pytest.raises(CertificateError, match=r"lying\.json: rows\[0\]\.vacuous"):
        tabulate([lying], tmp_path)
    damaged = tmp_path / "one.json"
    damaged.write_bytes(damaged.read_bytes().replace(b"lora-16", b"lora-17", 1))
    with pytest.raises(CertificateError, match=r"one\.json"):
        tabulate([damaged], tmp_path)
    assert not (tmp_path / "certificates.parquet").exists()
