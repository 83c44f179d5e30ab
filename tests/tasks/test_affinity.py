"""Zero-shot affinity: tables as people write them, likelihoods by hand, one correlation per antibody."""

import gzip
import math

import numpy as np
import polars as pl
import pytest
from tokenbounds.antibodies.vocabulary import encode_text
from tokenbounds.config import AffinityTask
from tokenbounds.errors import TokenboundsError
from tokenbounds.messages.decode import decode_message
from tokenbounds.tasks.affinity import correlate_variants, score_variants
from tokenbounds.tasks.run import run_task
from tokenbounds.tasks.tables import read_variants


def task(path, **changes):
    row = {"kind": "affinity", "paths": (str(path),), "messages": ("m",), "value": "KD", "higher_is_better": False}
    return AffinityTask(**{**row, "heavy": "VH", **changes})


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "affinity.csv"
    path.write_text("VH,VL,KD,antibody\nacd, WYW ,1.5,one\nACE,WYW,2,one\nACX,WYW,3,one\n,WYW,4,two\nACD,WYW,,two\n")
    return path


def test_rows_are_read_by_column_and_those_left_out_say_why(table):
    variants = read_variants(task(table, light="VL", antibody="antibody"))
    assert [variant.antibody for variant in variants] == ["one", "one", "one", "two", "two"]
    assert [residues for _, residues in variants[0].chains] == ["ACD", "WYW"]
    assert [variant.reason for variant in variants] == [
        "",
        "",
        "letters that are not amino acids",
        "no sequence",
        "no value",
    ]


def test_without_a_column_of_antibodies_all_rows_are_one(table):
    assert {variant.antibody for variant in read_variants(task(table))} == {"all"}


def test_tables_may_be_tab_separated_compressed_and_begin_with_a_mark(tmp_path):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress('\ufeffseq\tKD\r\n"ACD"\t7\r\n'.encode()))
    (variant,) = read_variants(task(path, heavy=None, sequence="seq"))
    assert (variant.chains[0][1], variant.value) == ("ACD", 7.0)


@pytest.mark.parametrize(("changes", "named"), [({"value": "Kd"}, "value"), ({"heavy": "vh"}, "heavy")])
def test_a_missing_column_names_those_there_are(table, changes, named):
    with pytest.raises(TokenboundsError, match=f"has: VH, VL, KD, antibody.*Set the task's '{named}'"):
        read_variants(task(table, **changes))


def test_damaged_tables_give_one_clear_error(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(b"\x1f\x8b rubbish")
    with pytest.raises(TokenboundsError, match=r"cannot read .*a\.csv\.gz"):
        read_variants(task(path))


@pytest.mark.parametrize(
    ("cell", "value", "reason"),
    [
        ("-1.5E-9", -1.5e-9, ""),
        (" .5 ", 0.5, ""),
        ("NA", None, "no value"),
        ("NaN", None, "no value"),
        ("#N/A", None, "no value"),
        ("<NA>", None, "no value"),
        ("None", None, "no value"),
        (">1000", None, "only a limit (< or >)"),
        ("≤ 0.1", None, "only a limit (< or >)"),
        ("1,5", None, "a value that is not a number"),
        ("1_000", None, "a value that is not a number"),
        ("1e999", None, "a value that is not a number"),
        ("n.d.", None, "a value that is not a number"),
    ],
)
def test_values_as_people_write_them(tmp_path, cell, value, reason):
    path = tmp_path / "a.csv"
    path.write_text(f'"K_D, nM ", VH\n1,AAA\n"{cell}",A.C-D E\n', encoding="utf-8")
    _, variant = read_variants(task(path, value="K_D, nM"))
    assert variant.chains[0][1] == "ACDE"
    assert (None if math.isnan(variant.value) else variant.value, variant.reason) == (value, reason)


def test_chains_measured_several_times_count_once_by_the_median(tmp_path):
    path = tmp_path / "a.csv"
    rows = ["ACD,W,1,a", "ACE,W,7,a", "acd,W,9,a", "ACD,W,2,a", "ACD,W,5,b", "ACD,Y,6,a", "ACD,W,,a"]
    path.write_text("VH,VL,KD,ab\n" + "\n".join(rows) + "\n")
    variants = read_variants(task(path, light="VL", antibody="ab"))
    assert [each.value for each in variants[:2]] == [2.0, 7.0]
    repeated = "the same chains again, in the median"
    assert [each.reason for each in variants] == ["", "", repeated, repeated, "", "", "no value"]


@pytest.mark.parametrize("word", ["nan", "NA", "N/A", "None", "null", "<NA>", ""])
def test_a_missing_chain_is_no_peptide(tmp_path, word):
    path = tmp_path / "a.csv"
    path.write_text(f"VH,VL,KD\nACD,{word},1\nACE,WYW*,2\n")
    left_out, used = read_variants(task(path, light="VL"))
    assert left_out.reason == "no sequence" and used.reason == "" and used.chains[1][1] == "WYW"


def test_rows_that_name_no_antibody_are_not_pooled(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("VH,KD,ab\nACD,1,x\nACE,2,\nACF,3, \nACG,4,nan\nACH,5,unassigned\nACI,6,7.0\n")
    found = [(each.antibody, each.reason) for each in read_variants(task(path, antibody="ab"))]
    assert found == [("x", ""), *[("", "no antibody named")] * 4, ("7", "")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("VH,KD\n", r"a\.csv has no row that can be used \(it has none\)"),
        ("VH,KD\nACD,x\nACE,>3\nACF,y\n", r"\(2 a value that is not a number; 1 only a limit \(< or >\)\)"),
        ("VH,KD\nACD\n", r"a\.csv:2 has 1 cells, the header 2 columns"),
        ("VH,KD,KD\nACD,1,2\n", "names the column 'KD' twice"),
        ("VH;KD\nACD;1\n", r"no column 'KD' \(it has: VH;KD\)"),
        ("VH,KD\n" + "GCT" * 30 + ",1\n", r"a\.csv:2, column 'VH' looks like nucleotides"),
        ("", "has no header"),
    ],
)
def test_faults_of_tables(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(TokenboundsError, match=message):
        read_variants(task(path))


def test_likelihoods_are_sums_over_residues_of_both_chains(study, table):
    chain = decode_message(study.message(1))
    frame = score_variants(chain, read_variants(task(table, light="VL")))
    heavy, light = (chain.score(encode_text(text).astype(np.int64))[0].sum() for text in ("ACD", "WYW"))
    assert frame["log2_likelihood"][0] == pytest.approx(-(heavy + light), rel=1e-6)
    assert frame["residues"].to_list()[:2] == [6, 6]
    assert frame["log2_likelihood"].to_list()[2:] == [None, None, None]


def variants(names, values, likelihoods):
    rows = {"antibody": names, "value": values, "log2_likelihood": likelihoods, "reason": [""] * len(names)}
    return pl.DataFrame(rows)


LIKELIHOODS = [-4.0, -5.0, -6.0, -7.0, -1.0, -2.0, -3.0, -3.5]


def test_each_antibody_has_its_own_correlation_and_none_is_pooled():
    """Within each antibody likelier variants are worse, while pooled they would seem better: Simpson's paradox."""
    frame = variants(["a"] * 4 + ["b"] * 4, [1.0, 2.0, 3.0, 4.0, 11.0, 12.0, 13.0, 14.0], LIKELIHOODS)
    row = task("x", higher_is_better=True, resamples=50)
    assert [(each["antibody"], each["spearman"]) for each in correlate_variants(frame, row)] == [("a", -1), ("b", -1)]
    pooled = correlate_variants(frame.with_columns(pl.lit("all").alias("antibody")), row)
    assert pooled[0]["spearman"] > 0


def test_the_sign_follows_what_better_means():
    frame = variants(["a"] * 4, [1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0])
    (row,) = correlate_variants(frame, task("x", resamples=9))
    assert (row["spearman"], row["remarks"]) == (1, "so few variants that the interval is rough")
    assert correlate_variants(frame, task("x", higher_is_better=True, resamples=9))[0]["spearman"] == -1


@pytest.mark.parametrize(
    ("values", "likelihoods", "remark"),
    [
        ([1.0, 2.0], [1.0, 2.0], "fewer than 3 variants"),
        ([], [], "fewer than 3 variants"),
        ([4.0] * 3, [1.0, 2.0, 3.0], "all values are equal"),
        ([1.0, 2.0, 3.0], [-5.0] * 3, "all likelihoods are equal"),
    ],
)
def test_without_a_correlation_the_row_says_why(values, likelihoods, remark):
    left_out = pl.DataFrame({"antibody": ["a"], "value": [None], "log2_likelihood": [None], "reason": ["no value"]})
    frame = pl.concat([variants(["a"] * len(values), values, likelihoods), left_out], how="vertical_relaxed")
    (row,) = correlate_variants(frame, task("x", resamples=9))
    assert (row["variants"], row["left_out"]) == (len(values), 1)
    assert row["remarks"] == f"1 no value; {remark}"
    assert math.isnan(row["spearman"]) and math.isnan(row["low"])


def test_a_task_writes_what_it_was_made_from(study, table, tmp_path):
    out = tmp_path / "answers.parquet"
    frame = run_task(task(table), study.message(1), out)
    assert pl.read_parquet(out).equals(frame)
    metadata = pl.read_parquet_metadata(out)
    assert metadata["schema_version"] == "1"
    assert {"message_sha256", "sha256 affinity.csv"} <= metadata.keys()


def test_a_model_of_other_text_is_refused(tmp_path):
    from tokenbounds.tasks.layouts import layout_of

    class Chain:
        vocabulary_size = 256

        def score(self, tokens, start_id):
            raise AssertionError("asked before it is known what it reads")

    with pytest.raises(TokenboundsError, match="256 tokens reads no antibodies"):
        layout_of(Chain())
