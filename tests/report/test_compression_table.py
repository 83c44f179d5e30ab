"""The table of compression: methods by their names, sizes and bounds next to each other."""

import copy
import json
import math
from pathlib import Path

import polars as pl
import pytest
from json_certificates import write_certificate
from report_study import certificate_dict
from tokenbounds.errors import TokenboundsError
from tokenbounds.files import write_json
from tokenbounds.report import style
from tokenbounds.report.compression import compression_section, method_of, method_table, tabulate_compression
from tokenbounds.report.formats import round_up
from tokenbounds.report.methods import draw_bound_by_method, with_published
from tokenbounds.report.published_numbers import read_published_losses
from tokenbounds.report.records import read_certificates

ROOT = Path(__file__).parents[2]

SUBLORA = {"kind": "subspace", "dimension": 50, "over": {"kind": "lora"}}
# name, size in bits, parameterization, quantizer, weight of the rate, trained parameters
ROWS = [
    ("sublora-small", 20_000, SUBLORA, "codebook", 0.0, 5_000),
    ("sublora-large", 80_000, SUBLORA, "codebook", 0.0, 20_000),
    ("lora", 300_000, {"kind": "lora"}, "codebook", 0.0, 90_000),
    ("ours", 150_000, {}, "uniform", 10.0, 600_000),
]


def write_row(root, name, size_bits, parameterization, quantizer, rate_weight, parameters):
    raw = copy.deepcopy(certificate_dict(name, size_bits=size_bits, model=f"model-{name}"))
    raw["message"]["header"] = {
        "coder": "adaptive",
        "model": {"family": "gpt2", "parameterization": parameterization},
        "quantizer": {"kind": quantizer},
    }
    path = root / "certificates" / f"{name}.json"
    write_certificate(path, raw)
    training = {"steps": 100, "rate_weight": rate_weight}
    report = {"sha256": raw["message"]["sha256"], "coded_parameters": parameters}
    report["message"] = {"quantizer": {"kind": quantizer, "straight_through": training}}
    report["symbols_compressed_bits"] = {"gzip": size_bits + 9000, "xz": size_bits + 6000, "zstd": size_bits + 8000}
    write_json(root / "messages" / f"{name}.json", report)
    return path


@pytest.fixture
def study(tmp_path):
    paths = [write_row(tmp_path, *row) for row in ROWS]
    chain = copy.deepcopy(certificate_dict("markov-1", size_bits=5_000))
    chain["message"]["header"] = {"coder": "adaptive", "model": {"family": "markov"}, "quantizer": {"kind": "counts"}}
    paths.append(tmp_path / "certificates" / "markov-1.json")
    write_certificate(paths[-1], chain)
    return paths


def test_methods_have_the_names_people_know():
    def header(parameterization, quantizer="codebook"):
        return {"model": {"family": "gpt2", "parameterization": parameterization}, "quantizer": {"kind": quantizer}}

    def trained(kind, steps, rate_weight):
        return {"kind": kind, "straight_through": {"steps": steps, "rate_weight": rate_weight}}

    assert method_of({"model": {"family": "gpt2"}, "quantizer": {"kind": "uniform"}}) == "dense, uniform"
    assert method_of(header(SUBLORA), trained("codebook", 5, 0.0)) == "SubLoRA, codebook"
    assert method_of(header({"kind": "subspace"})) == "subspace, codebook"
    over = {"kind": "subspace", "over": {"kind": "kronecker"}}
    assert method_of(header(over)) == "Kronecker + subspace, codebook"
    assert method_of(header({"kind": "monarch"}), trained("codebook", 0, 3.0)) == "Monarch, codebook"
    assert method_of(header({}, "uniform"), trained("uniform", 9, 3.0)) == "dense, rate–distortion uniform"


def test_quantizers_of_pretrained_models_are_told_apart_though_their_headers_are_alike():
    header = {"model": {"family": "llama"}, "quantizer": {"kind": "scaled"}}
    assert method_of(header) == "dense, scaled"  # all that a message says without its report
    assert method_of(header, {"kind": "gptq", "damping": 0.01}) == "GPTQ"
    assert method_of(header, {"kind": "watersic", "trellis": None}) == "WaterSIC"
    assert method_of(header, {"kind": "watersic", "trellis": 8}) == "WaterSIC, 8 states"
    lora = {"model": {"family": "llama", "parameterization": {"kind": "lora"}}}
    assert method_of(lora, {"kind": "rtn"}) == "LoRA, round to nearest"


def test_rows_hold_what_certificates_and_reports_say(study, tmp_path):
    table = tabulate_compression(study, tmp_path / "tables")
    assert table["certificate"].to_list() == ["lora", "sublora-small", "sublora-large", "ours"]
    row = table.row(by_predicate=pl.col("certificate") == "ours", named=True)
    raw = json.loads((tmp_path / "certificates" / "ours.json").read_text())
    best = {
        each["metric"]: min(r["value"] for r in raw["rows"] if r["metric"] == each["metric"]) for each in raw["rows"]
    }
    assert {metric: row[metric] for metric in best} == best
    assert (row["trained_parameters"], row["message_bits"], row["xz_bits"]) == (600_000, 150_000, 156_000)
    assert row["symbol_bits"] == raw["message"]["breakdown"]["symbols"]
    again = pl.read_parquet(tmp_path / "tables" / "compression.parquet")
    assert again.equals(table)
    assert pl.read_csv(tmp_path / "tables" / "compression.csv").columns == table.columns


def test_markdown_marks_the_best_and_shows_bits_a_parameter(study, tmp_path):
    table = tabulate_compression(study, tmp_path / "tables")
    text = (tmp_path / "tables" / "compression.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| SubLoRA")]
    assert len(lines) == 2 and "| 5,000 |" in lines[0] and "| 4.00 |" in lines[0]
    best = table.row(by_predicate=pl.col("bpd") == pl.col("bpd").min(), named=True)
    line = next(line for line in text.splitlines() if f"| {best['message']} |" in line)
    assert f"**{round_up(best['bpd'], 3)}**" in line
    assert text.count(f"**{round_up(best['bpd'], 3)}**") == 1
    assert "markov" not in text


def test_a_report_of_another_message_is_refused(study, tmp_path):
    path = tmp_path / "messages" / "lora.json"
    write_json(path, {**json.loads(path.read_text()), "sha256": "0" * 64})
    with pytest.raises(TokenboundsError, match=r"lora\.json is not the report on the message of"):
        tabulate_compression(study, tmp_path / "tables")


def test_without_reports_the_numbers_of_certificates_remain(study, tmp_path):
    for name, *_ in ROWS:
        (tmp_path / "messages" / f"{name}.json").unlink()
    table = tabulate_compression(study, tmp_path / "tables")
    assert table["trained_parameters"].is_null().all() and table["bpd"].is_not_null().all()


def test_chains_alone_make_an_empty_table_and_no_section(study, tmp_path):
    assert tabulate_compression(study[-1:], tmp_path / "tables").height == 0
    assert compression_section(study[-1:]) == []
    (section,) = compression_section(study)
    assert "SubLoRA, codebook" in section.body and "<table>" in section.body


def test_the_figure_has_a_line_for_each_method(study, tmp_path):
    table = method_table(read_certificates(study))
    with style.figure_style():
        svg = style.save(draw_bound_by_method(table), table, tmp_path, "bound_by_method").read_text()
    assert table.group_by("method").len().filter(pl.col("method") == "SubLoRA, codebook")["len"].to_list() == [2]
    assert all(method in svg for method in ("SubLoRA, codebook", "dense, rate–distortion uniform", "not certified"))


def test_trained_parameters_are_drawn_where_they_are_known_and_differ(study, tmp_path):
    table = method_table(read_certificates(study))
    with style.figure_style():
        sizes, parameters = draw_bound_by_method(table).axes
        one_number = draw_bound_by_method(table.with_columns(pl.lit(9).alias("trained_parameters")))
        unknown = draw_bound_by_method(table.with_columns(pl.lit(None, pl.Int64).alias("trained_parameters")))
    drawn = {float(x) for line in parameters.get_lines() for x in line.get_xdata()}
    assert drawn == {5_000, 20_000, 90_000, 600_000}
    assert drawn != {float(x) for line in sizes.get_lines() for x in line.get_xdata()}
    assert len(one_number.axes) == len(unknown.axes) == 1


def test_published_losses_are_hollow_and_beside_trained_parameters_alone(study):
    published = read_published_losses(ROOT / "config" / "published" / "gpt2_parameterizations.csv")
    table = with_published(method_table(read_certificates(study)), published)
    with style.figure_style():
        figure = draw_bound_by_method(table)
    sizes, parameters = figure.axes
    drawn = {float(x) for line in parameters.get_lines() for x in line.get_xdata()}
    assert drawn == {5_000, 20_000, 90_000, 600_000, *map(float, published["trained_parameters"])}
    assert len({float(x) for line in sizes.get_lines() for x in line.get_xdata()}) == 4
    faces = {line.get_label(): line.get_markerfacecolor() for line in figure.legends[0].get_lines()}
    assert faces["Monarch (paper)"] == style.PAPER != faces["SubLoRA, codebook"]
    # Read off in nats: 3.69 of the largest Monarch network.
    assert published["empirical_bits"].min() == pytest.approx(3.69 / math.log(2), abs=0.005)


def test_what_is_not_quantized_is_a_level_and_not_a_point(study, tmp_path):
    study.append(write_row(tmp_path, "whole", 600, {}, "reference", 0.0, None))
    table = method_table(read_certificates(study))
    with style.figure_style():
        figure = draw_bound_by_method(table)
        smallest_drawn = figure.axes[0].get_xlim()[0]
    assert smallest_drawn > 600 / 8
    assert any("not quantized" in text.get_text() for text in figure.axes[0].texts)
    assert "not quantized" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_many_methods_have_marks_of_their_own():
    found = style.marks([f"method {number}" for number in range(40)])
    assert len(set(found.values())) == 40


@pytest.mark.parametrize(("smallest", "largest", "labels"), [(25e6, 66e6, 4), (20e3, 400e3, 4), (100, 1e6, 5)])
def test_sizes_are_labelled_however_close_they_are(tmp_path, smallest, largest, labels):
    rows = [("s", round(8 * smallest), {}, "uniform", 0.0, 9), ("l", round(8 * largest), {}, "uniform", 0.0, 9)]
    table = method_table(read_certificates([write_row(tmp_path, *row) for row in rows]))
    with style.figure_style():
        axes = draw_bound_by_method(table).axes[0]
    low, high = axes.get_xlim()
    inside = [place for place in axes.xaxis.get_major_locator()() if low <= place <= high]
    assert labels <= len(inside) <= 9
