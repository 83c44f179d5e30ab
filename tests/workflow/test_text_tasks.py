"""Tasks of models of text, from the rows of a study to the report: a fine-tune over a base is asked and sampled."""

import copy

import polars as pl
import pytest
from tiny_study import Run, make_corpora
from tokenbounds.config import QuestionFiles
from tokenbounds.tasks.questions import read_questions

pytestmark = pytest.mark.workflow

SUMS = {"kind": "arithmetic", "digits": 2, "documents": 60}
BECAUSE = "Drawn on 2026-01-31 by a seed of its own."
STUDY = {
    "study": "tasks",
    "corpora": {
        "open": {"source": {**SUMS, "answers": ["sum", "difference"]}, "shards": 1},
        "differences": {"source": {**SUMS, "answers": ["difference"], "seed": 1}, "shards": 1},
        "new": {"source": {**SUMS, "answers": ["difference"], "seed": 2}, "shards": 1},
        "letters": {"source": {"kind": "text", "paths": ["letters"]}, "shards": 1},
    },
    "models": {
        "base": {
            "kind": "trained",
            "corpus": "open",
            "architecture": {"family": "gpt2", "layers": 1, "hidden": 16, "heads": 2, "context": 12},
            "training": {"steps": 20, "batch_tokens": 128},
        },
        "tuned": {
            "kind": "finetuned",
            "base": "base",
            "corpus": "differences",
            "context": 12,
            "parameterization": {"kind": "tiny", "dimension": 4, "rank": 2},
            "training": {"steps": 4, "batch_tokens": 64},
        },
    },
    "messages": {
        "tuned": {"model": "tuned", "quantizer": {"kind": "uniform"}},
    },
    "evaluations": {"default": {"context": 12, "shards": 1}},
    "certificates": {"tuned": {"message": "tuned", "corpus": "differences", "evaluation": "default"}},
    "tasks": {
        "paid": {"kind": "generation", "corpus": "differences", "messages": ["tuned"], "tokens": 3},
        "held-out": {
            "kind": "generation",
            "corpus": "new",
            "messages": ["tuned"],
            "tokens": 3,
            "prior": "held_out",
            "held_out_because": BECAUSE,
        },
        "text": {"kind": "samples", "messages": ["tuned"], "prompts": ["10?"], "tokens": 5},
        "choices": {
            "kind": "zero_shot",
            "questions": {"kind": "missing_word", "corpus": "letters", "questions": 9},
            "messages": ["tuned"],
            "resamples": 20,
        },
    },
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The study after a full run."""
    run = Run(tmp_path_factory.mktemp("tasks"))
    make_corpora(run.folder)
    finished = run.snakemake("--show-failed-logs", "--set-threads", "measure_task=1", config=run.write_config(STUDY))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return run


def table(run, name):
    return pl.read_parquet(run.folder / f"results/tasks/{name}.parquet")


def test_every_task_ends_in_a_table_and_a_section_of_the_report(done):
    page = (done.folder / "results/report.html").read_text()
    for section in ("generation", "samples", "zero-shot"):
        assert f'id="{section}"' in page
    assert table(done, "memorization").height == 0
    assert table(done, "samples")["tokens"].to_list() == [5]
    assert dict(table(done, "zero_shot").select("measure", "questions").iter_rows()) == {
        "predicted": 9,
        "bits_per_answer": 9,
    }


def test_drawn_questions_are_a_file_of_questions_for_anyone(done):
    path = done.folder / "results/tasks/choices/questions.jsonl"
    questions = read_questions(QuestionFiles("files", (str(path),)))
    texts = "".join(file.read_text() for file in (done.folder / "letters").iterdir())
    assert len(questions) == 9
    assert all(each.context + each.choices[0] + "." in texts for each in questions)
    assert "tasks/choices/questions.jsonl" in (done.folder / "results/SHA256SUMS").read_text()


def test_a_fine_tune_pays_for_its_adapter_and_for_nothing_if_prompts_are_held_out(done):
    rows = table(done, "generation")
    size_bits = 8 * (done.folder / "results/messages/tuned.tbm").stat().st_size
    assert dict(rows.select("task", "paid_bits").iter_rows()) == {"held-out": 0, "paid": size_bits}
    assert size_bits < 8 * (done.folder / "results/models/base/model.safetensors").stat().st_size / 10
    assert rows["prompts"].to_list() == [60] * 2
    assert (rows["certified_accuracy"] <= rows["accuracy"]).all()


def test_a_changed_task_repeats_what_depends_on_it_alone(done):
    ends = {"tabulate_tasks", "write_report", "sum_published"}
    assert done.planned_jobs(STUDY) == set()
    changed = copy.deepcopy(STUDY)
    changed["tasks"]["text"]["seed"] = 1
    assert done.planned_jobs(changed) == {"measure_task task=text message=tuned", *ends}
    changed = copy.deepcopy(STUDY)
    changed["tasks"]["choices"]["questions"]["seed"] = 1
    answers = {"draw_questions task=choices", "measure_task task=choices message=tuned"}
    assert done.planned_jobs(changed) == answers | ends
