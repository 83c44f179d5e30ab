"""Tables, figures and the page's section: the certificates' own numbers, and every task's answers."""

import math

import polars as pl
import pytest
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.config import AffinityTask, RecoveryTask
from tokenbounds.errors import TokenboundsError
from tokenbounds.report.antibodies.section import NAMES, antibody_section, write_antibody_results
from tokenbounds.tasks.run import run_task


@pytest.fixture(scope="module")
def results(study, tmp_path_factory):
    """Everything that a study of two chains, two certificates and two tasks writes."""
    folder = tmp_path_factory.mktemp("results")
    study.corpus("memory", seed=7)
    certificates = [
        study.certify("<own>", 2, subsets=("residue", "region", "germline"), bounds=("betting",)),
        study.certify("abroad", 1, corpus="memory", trained_on="heavy", subsets=("region",), bounds=("betting",)),
        study.certify("profile", 1, subsets=("imgt",), bounds=("betting",), top_k=()),
    ]
    table = folder / "affinity.csv"
    table.write_text(
        "VH,KD,antibody\n" + "".join(f"{'ACDEFG'[:n]}WW,{n},<b>ab</b>\n" for n in range(1, 7)) + "AW,>9,<b>ab</b>\n"
    )
    affinity = {"kind": "affinity", "paths": (str(table),), "value": "KD", "heavy": "VH", "antibody": "antibody"}
    tasks = {
        "cdr3": RecoveryTask(kind="recovery", corpus="heavy", messages=("heavy-1", "heavy-2"), sequences=4),
        "kd": AffinityTask(**affinity, messages=("heavy-1",), higher_is_better=False, resamples=20),
    }
    answers = {}
    for name, task in tasks.items():
        paths = [folder / name / f"{message}.parquet" for message in task.messages]
        for path in paths:
            run_task(task, study.root / "messages" / f"{path.stem}.tbm", path, corpus=study.corpus())
        answers[name] = (task, paths)
    reports = [study.root / "messages" / f"heavy-{order}.json" for order in (1, 2)]
    out = folder / "antibody"
    write_antibody_results(certificates, reports, answers, out)
    return out, [read_certificate(path) for path in certificates]


def test_every_table_is_written_twice_and_says_the_same(results):
    folder, _ = results
    for name in NAMES:
        frame = pl.read_parquet(folder / f"{name}.parquet")
        again = pl.read_csv(folder / f"{name}.csv", schema=frame.schema)
        assert again.equals(frame)
        assert pl.read_parquet_metadata(folder / f"{name}.parquet")["schema_version"] == "1"


def test_the_table_of_models_has_the_papers_form(results):
    folder, certificates = results
    frame = pl.read_parquet(folder / "models.parquet")
    assert frame["certificate"].to_list() == ["profile", "<own>", "random guessing", "abroad", "random guessing"]
    own = next(one for one in certificates if one.name == "<own>")
    row = frame.row(1, named=True)
    assert row["bpd"] == own.row("bpd").value
    assert row["top3_error"] == own.row("top3_error").value
    assert row["bpd_residues"] == own.subset("residue", "residue").row("bpd").value
    # Only the message of `profile` and `abroad` was measured on what it never saw; nats, not bits.
    abroad = next(one for one in certificates if one.name == "abroad")
    losses = dict(frame.drop_nulls("certificate").select("certificate", "validation_loss").rows())
    assert losses["profile"] == losses["abroad"] == pytest.approx(math.log(2) * abroad.row("bpd").empirical)
    assert losses["<own>"] is None
    guess = frame.row(2, named=True)
    assert guess["bpd"] == pytest.approx(math.log2(29))
    assert guess["top3_error"] == pytest.approx(1 - 3 / 29)


def test_regions_and_positions_are_the_certificates_own_rows(results):
    folder, certificates = results
    regions = pl.read_parquet(folder / "regions.parquet")
    for one in certificates:
        for subset in one.subsets:
            rows = regions.filter(
                (pl.col("certificate") == one.name)
                & (pl.col("column") == subset.column)
                & (pl.col("label") == subset.label)
            )
            if subset.column != "imgt":
                assert rows["value"].to_list() == [row.value for row in subset.rows]
                assert rows["tokens"].unique().to_list() == [subset.tokens]
    assert "imgt" not in regions["column"].to_list()
    positions = pl.read_parquet(folder / "positions.parquet")
    assert positions["column"].unique().to_list() == ["imgt"]
    assert positions["certificate"].unique().to_list() == ["profile"]


def test_tasks_have_a_row_for_each_message(results):
    folder, _ = results
    recovery = pl.read_parquet(folder / "recovery.parquet")
    assert recovery["message"].to_list() == ["heavy-1", "heavy-2"]
    assert ((recovery["recovered_low"] <= recovery["recovered"]) & (recovery["recovered"] <= 1)).all()
    (row,) = pl.read_parquet(folder / "affinity.parquet").to_dicts()
    assert (row["antibody"], row["variants"], row["left_out"]) == ("<b>ab</b>", 6, 1)
    assert row["remarks"] == "1 only a limit (< or >); so few variants that the interval is rough"
    # Longer sequences are less likely, and here have a larger dissociation constant.
    assert row["spearman"] == 1
    measures = pl.read_parquet(folder / "quantization.parquet")
    assert {"CDR3 recovered, cdr3", "Spearman, <b>ab</b>, kd"} < set(measures["metric"])
    own = measures.filter((pl.col("message") == "heavy-2") & (pl.col("metric") == "CDR3 recovered, cdr3"))
    assert own["certified_bpd"].to_list() == [read_best(results, "<own>")]


def read_best(results, name):
    return next(one for one in results[1] if one.name == name).row("bpd").value


def test_the_section_shows_all_and_escapes_what_others_wrote(results):
    folder, _ = results
    (section,) = antibody_section(folder)
    for text in ("CDR3", "Recovery of regions", "Zero-shot affinity", "random guessing", "&lt;own&gt;", "&lt;b&gt;ab"):
        assert text in section.body
    assert "1 only a limit (&lt; or &gt;)" in section.body
    assert "<b>ab</b>" not in section.body
    assert section.body.count("<svg") == 2  # regions and positions; nothing was coded at two rates


def test_figures_of_an_earlier_run_do_not_stay(results, study):
    folder, _ = results
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_antibody_results([study.certify("plain", 2)], [study.root / "messages" / "heavy-2.json"], {}, folder)
    assert not list(folder.glob("figure_*"))
    assert antibody_section(folder) == []
    for name, data in kept.items():
        (folder / name).write_bytes(data)


def test_missing_tables_name_the_folder(tmp_path):
    with pytest.raises(TokenboundsError, match=str(tmp_path)):
        antibody_section(tmp_path)
