"""What a certificate's rows may not depend on, and in which direction they must move."""

import math
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from certified_study import with_link
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.certificates.averages.passes import Sample
from tokenbounds.certificates.certify import _note_evidence, certify_bound, compute_certificate
from tokenbounds.certificates.evidence import gather_evidence
from tokenbounds.certificates.prior import CorpusEvidence
from tokenbounds.certificates.rows.setting import Setting
from tokenbounds.certificates.rows.tokens import state_bounds
from tokenbounds.config import BoundsSpec, CorpusSpec, EvaluationSpec, TextSource
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.scores.plan import plan_corpus
from tokenbounds.scores.plan_file import read_plan
from tokenbounds.scores.store import open_scores

SPEC = BoundsSpec(bounds=("azuma", "freedman", "betting"), top_k=(1, 10), alphas=(0.01, 0.1, 0.3), lambdas=16)
ONE_CELL = replace(SPEC, alphas=(0.1,), lambdas=1, kappas=(0.0,))

ROUNDING = 1e-12


class Rebatched:
    """Scores cut into batches of another size."""

    def __init__(self, scores, batch_rows):
        self.scores, self.batch_rows = scores, batch_rows

    def iter_batches(self, columns=None):
        return self.scores.iter_batches(columns, batch_rows=self.batch_rows)


def open_study(study):
    plan = read_plan(study.inputs.plan)
    scores = open_scores(study.inputs.certified.scores, plan=plan)
    return scores, Setting(SPEC, plan.tokens, 256, Sample.of(plan), entropies=study.entropies)


def values(rows):
    return {(row.metric, row.bound): row.value for row in rows}


@pytest.mark.parametrize(
    ("fixture", "batch_rows"), [("study", 1), ("study", 17), ("study", 1000), ("centred_study", 17)]
)
def test_batches_of_any_size_give_the_same_rows(request, fixture, batch_rows):
    scores, setting = open_study(request.getfixturevalue(fixture))
    assert state_bounds(Rebatched(scores, batch_rows), setting, 80).rows == state_bounds(scores, setting, 80).rows


def test_batches_of_a_sample_differ_by_rounding_at_most(sampled_study):
    scores, setting = open_study(sampled_study)
    wanted = values(state_bounds(scores, setting, 80).rows)
    assert values(state_bounds(Rebatched(scores, 13), setting, 80).rows) == pytest.approx(wanted, rel=1e-12)


def test_the_order_of_score_files_does_not_matter(study, tmp_path):
    first, second = study.inputs.certified.scores
    one, other = (
        certify_bound("c", "t", with_link(study.inputs, scores=scores), SPEC, tmp_path / "c.json", model="m")
        for scores in ((first, second), (second, first))
    )
    assert one == other


def merge_shards(study, folder, layout):
    """The study's rows again, in one file of another layout, under a plan of one shard."""
    plan_corpus(study.inputs.corpus, EvaluationSpec(context=32, stride=24, seed=5, shards=1), folder / "plan.parquet")
    table = pq.read_table(list(study.inputs.certified.scores), partitioning=None)
    metadata = {**table.schema.metadata, b"plan_sha256": read_plan(folder / "plan.parquet").sha256.encode()}
    pq.write_table(table.replace_schema_metadata({**metadata, b"shard": b"0"}), folder / "all.parquet", **layout)
    return with_link(replace(study.inputs, plan=folder / "plan.parquet"), scores=(folder / "all.parquet",))


@pytest.mark.parametrize("layout", [{}, {"row_group_size": 50, "compression": "zstd"}, {"use_dictionary": False}])
def test_shards_and_layout_of_the_files_do_not_matter(study, tmp_path, layout):
    """Also: score files laid out as earlier releases wrote them are read."""
    wanted = certify_bound("c", "t", study.inputs, SPEC, tmp_path / "a.json", model="m")
    merged = certify_bound("c", "t", merge_shards(study, tmp_path, layout), SPEC, tmp_path / "b.json", model="m")
    assert merged.rows == wanted.rows and merged.ledger == wanted.ledger


@pytest.mark.parametrize("fixture", ["study", "centred_study", "sampled_study"])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_more_bits_or_confidence_cost_and_more_tokens_help(request, fixture, data):
    """For the rows as stated: each is the best of all its cells, and each cell obeys.

    On a sample the pilot chooses one cell, and it may be a slightly better one for more bits: there with a single cell.
    """
    bits, factor = data.draw(st.integers(0, 2000)), data.draw(st.floats(1.01, 50.0))
    scores, setting = open_study(request.getfixturevalue(fixture))
    spec = setting.spec if setting.sample is None else ONE_CELL
    setting = replace(setting, spec=spec)
    base = values(state_bounds(scores, setting, bits).rows)
    harder = [
        values(state_bounds(scores, setting, int(bits * factor) + 1).rows),
        values(state_bounds(scores, replace(setting, spec=replace(spec, delta=spec.delta / factor)), bits).rows),
    ]
    easier = values(state_bounds(scores, replace(setting, tokens=int(setting.tokens * factor)), bits).rows)
    for row, value in base.items():
        assert all(each[row] >= value - ROUNDING for each in harder), row
        assert easier[row] <= value + ROUNDING, row


@pytest.mark.parametrize("fixture", ["study", "centred_study", "sampled_study"])
def test_the_order_of_the_bounds_holds_for_every_row(request, fixture):
    scores, setting = open_study(request.getfixturevalue(fixture))
    setting = setting if setting.sample is None else replace(setting, spec=ONE_CELL)
    for bits in (0, 80, 3000):
        rows = {(row.metric, row.bound): row for row in state_bounds(scores, setting, bits).rows}
        assert rows["bpd", "betting"].value <= rows["bpd", "freedman"].value + ROUNDING
        for metric in ("top1_error", "top10_error"):
            # Pinsker: the inverse kl is at most Azuma's bound for what the row has paid, grids included.
            azuma, betting = rows[metric, "azuma"], rows[metric, "betting"]
            widths = [math.sqrt(row.complexity / (2 * setting.tokens)) for row in (azuma, betting)]
            assert betting.value <= azuma.value - widths[0] + widths[1] + ROUNDING


def test_through_the_whole_path_a_smaller_delta_costs(study, tmp_path):
    one, other = (
        certify_bound("c", "t", study.inputs, replace(SPEC, delta=delta), tmp_path / "c.json", model="m")
        for delta in (0.2, 0.001)
    )
    assert all(values(other.rows)[row] > value for row, value in values(one.rows).items())


def test_through_the_whole_path_a_larger_message_costs(study, tmp_path):
    """The same scores under a message with one more byte: only the price changes."""
    from forged_messages import write_message
    from tokenbounds.files import sha256_file
    from tokenbounds.messages.container import Part, read_message

    content = read_message(study.inputs.certified.message)
    larger = tmp_path / "larger.tbm"
    write_message(larger, content.header, [Part(part.kind, part.data + b"\0") for part in content.parts])
    paths = []
    for path in study.inputs.certified.scores:
        table = pq.read_table(path, partitioning=None)
        metadata = {**table.schema.metadata, b"message_sha256": sha256_file(larger).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / path.name)
        paths.append(tmp_path / path.name)
    inputs = with_link(study.inputs, message=larger, scores=tuple(paths))
    wanted = values(certify_bound("c", "t", study.inputs, SPEC, tmp_path / "a.json", model="m").rows)
    found = values(certify_bound("c", "t", inputs, SPEC, tmp_path / "b.json", model="m").rows)
    assert all(found[row] > value for row, value in wanted.items())


def test_padding_of_the_vocabulary_makes_guessing_look_no_worse(study):
    """A model with 256 tokens of which the tokenizer has 8: guessing is among 8, and values stay as they are."""
    scores, setting = open_study(study)
    rows = state_bounds(scores, replace(setting, spec=replace(SPEC, top_k=(1,))), 80).rows
    padded = state_bounds(scores, replace(setting, known_tokens=8), 80)
    assert values(padded.rows) == values(rows)
    guesses = {row.metric: row.random_guess for row in padded.rows}
    assert guesses == {"bpd": 3.0, "top1_error": 7 / 8}
    assert all(row.vacuous == (row.value >= guesses[row.metric]) for row in padded.rows)
    assert "Top-10 error is not stated: 10 guesses out of 8 tokens never miss." in padded.notes


def test_copies_of_one_text_are_counted_in_the_certificate(study, tmp_path):
    for number in range(101):
        (tmp_path / f"{number}.txt").write_text("one and the same")
    source = TextSource(kind="text", paths=(str(tmp_path / "*.txt"),))
    tokenize_corpus(CorpusSpec(source=source), "copies", tmp_path / "copies")
    evidence, copies = gather_evidence(study.inputs), CorpusEvidence.open(tmp_path / "copies")
    names = {"name": "c", "study": "t", "model": "m"}
    assert not any("repeat" in note for note in compute_certificate(names, evidence, SPEC, tmp_path).notes)
    note = next(_note_evidence(replace(evidence, corpus=copies)))
    assert note.startswith("100 of 101 documents, with 1,600 of 1,616 tokens, repeat an earlier one")


def test_a_certificate_guesses_among_the_tokens_of_its_tokenizer(study, tmp_path):
    evidence = gather_evidence(study.inputs)
    manifest = evidence.corpus.manifest
    for tokens, guess in ((256, 8.0), (64, 6.0), (1024, 8.0)):
        known = replace(manifest, tokenizer=replace(manifest.tokenizer, vocabulary_size=tokens))
        changed = replace(evidence, corpus=replace(evidence.corpus, manifest=known))
        found = compute_certificate({"name": "c", "study": "t", "model": "m"}, changed, SPEC, tmp_path)
        assert {row.random_guess for row in found.rows if row.metric == "bpd"} == {guess}
