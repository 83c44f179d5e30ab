"""A study's bounds beside published ones."""

from pathlib import Path

import polars as pl
import pytest
from json_certificates import write_certificate
from report_study import certificate_dict
from tokenbounds.errors import TokenboundsError
from tokenbounds.report import style
from tokenbounds.report.published_numbers import draw_beside_published, draw_numbers, read_published

LLAMA = Path(__file__).parents[2] / "config" / "published" / "llama_quip_sharp.csv"


def test_the_paper_s_numbers_say_where_they_are_from():
    table = read_published(LLAMA)
    text = LLAMA.read_text()
    assert text.startswith("#") and "arXiv 2407.18158" in text and "Read off the figure" in text
    assert (table["bound_bits"] > table["empirical_bits"]).all()
    best = table.sort("bound_bits").row(0, named=True)
    assert (best["series"], best["label"], best["bound_bits"]) == ("LLaMA-2 (paper)", "7B 2 bits", 4.28)
    # Within a family, each larger file certifies worse.
    for name in table["series"].unique():
        assert table.filter(pl.col("series") == name).sort("message_bytes")["bound_bits"].is_sorted()


def test_ours_and_theirs_are_in_the_same_axes(tmp_path):
    paths = []
    for name, size in (("ours-1.5", 11_000_000_000), ("ours-2", 14_500_000_000)):
        certificate = certificate_dict(name, size_bits=size, empirical=2.9, vocabulary=32000, model="llama2-7b")
        write_certificate(tmp_path / f"{name}.json", certificate)
        paths.append(tmp_path / f"{name}.json")
    svg = draw_beside_published(paths, LLAMA, tmp_path / "figures")
    table = pl.read_parquet(svg.with_suffix(".parquet"))
    assert svg.stem == "beside_published" and svg.with_suffix(".png").is_file()
    assert table.height == 2 + read_published(LLAMA).height
    ours = table.filter(pl.col("series") == "this study")
    assert ours["message_bytes"].to_list() == [11e9 / 8, 14.5e9 / 8]
    with style.figure_style():
        axes = draw_numbers(table).axes[0]
    faces = {line.get_label(): line.get_markerfacecolor() for line in axes.get_legend().get_lines()}
    assert faces["LLaMA-2 (paper)"] == style.PAPER != faces["this study"]
    # Ours, vacuous on this small corpus, are triangles at the edge, not the scale of the figure.
    assert axes.get_ylim() == (0, 1.5 * 7.69)
    triangles = [line for line in axes.get_lines() if line.get_marker() == "^" and len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in triangles] == [[1.5 * 7.69] * 2]
    low, high = axes.get_xlim()
    assert low < table["message_bytes"].min() and high > table["message_bytes"].max()


@pytest.mark.parametrize(
    "text",
    [
        "series,label,message_bytes,empirical_bits\na,b,1,2\n",
        "series,label,message_bytes,empirical_bits,bound_bits\na,b,many,2,3\n",
        "series,label,message_bytes,empirical_bits,bound_bits\na,b,1,,3\n",
        "series,label,message_bytes,empirical_bits,bound_bits\na,b,0,2,3\n",
        "",
    ],
    ids=["column", "number", "empty", "size", "nothing"],
)
def test_other_tables_are_refused(text, tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text(text)
    with pytest.raises(TokenboundsError, match=r"numbers\.csv"):
        read_published(path)
    with pytest.raises(TokenboundsError, match="missing"):
        read_published(tmp_path / "missing.csv")
