"""The graph of a study: what rows depend on, and which files and rows each step reads.

Functions of a study and of names, for the rules in `workflow/rules/`. Paths begin with the study's folder of results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenbounds.config.antibodies import SequenceSource
from tokenbounds.config.base import Section, references
from tokenbounds.config.figures import drawn_figures
from tokenbounds.config.rows import row_json
from tokenbounds.config.text_tasks import TextTask
from tokenbounds.files import canonical_json

if TYPE_CHECKING:
    from tokenbounds.config import CertificateSpec, Study

TASK_TABLES = ("generation", "memorization", "samples", "zero_shot", "correlation")
ANTIBODY_TABLES = ("models", "regions", "positions", "recovery", "affinity", "quantization")


def reachable(study: Study, section: Section, names: Iterable[str]) -> Iterator[tuple[Section, str]]:
    """Yield rows and everything that they depend on through references, each once; the walk ends at corpora.

    What a corpus's tokenizer was trained on is not followed: it shares no document with the corpus.
    """
    waiting: list[tuple[Section, str]] = [(section, name) for name in reversed(list(names))]
    seen: set[tuple[Section, str]] = set()
    while waiting:
        step = waiting.pop()
        if step in seen:
            continue
        seen.add(step)
        yield step
        if step[0] != "corpora":
            uses = list(references(study.section(step[0])[step[1]]))
            waiting.extend((use.section, use.name) for use in reversed(uses))


def training_corpora(study: Study, row: CertificateSpec) -> list[str]:
    """Names of the corpora that a certificate's models (and its chain's) were trained, counted or calibrated on."""
    return [name for section, name in reachable(study, "messages", row.messages) if section == "corpora"]


def base_corpora(study: Study, row: CertificateSpec) -> list[str]:
    """Names of the corpora that the bases of a certificate's messages were trained on."""
    bases = [base for name in row.messages if (base := base_model(study, name)) is not None]
    return [name for section, name in reachable(study, "models", bases) if section == "corpora"]


def base_model(study: Study, message: str) -> str | None:
    """Name of the base model of a message: a fine-tune's, or the one that a reference names; otherwise None."""
    row = study.messages[message]
    model = study.models[row.model]
    if model.kind == "finetuned":
        return model.base
    return row.model if row.quantizer.models == "fixed" else None


def coarse_message(study: Study, message: str) -> str | None:
    """Name of the coarse message that a message refines; None if it refines none."""
    return study.messages[message].quantizer.needs().coarse


# --- files of a study's results ---------------------------------------------------------------------------------------


def corpus_manifest(study: Study, corpus: str) -> str:
    """The manifest of a corpus; it represents its shards, which it names by hash."""
    return f"{study.results}/corpora/{corpus}/manifest.json"


def model_files(study: Study, model: str) -> list[str]:
    """Card and values of a model."""
    own = {"markov": ["counts.arrow"], "online": [], "pretrained": ["original.json"]}
    values = own.get(study.models[model].kind, ["model.safetensors"])
    return [f"{study.results}/models/{model}/{file}" for file in ("card.json", *values)]


def message_file(study: Study, message: str) -> str:
    """A message."""
    return f"{study.results}/messages/{message}.tbm"


def plan_file(study: Study, corpus: str, evaluation: str) -> str:
    """The plan of an evaluation on a corpus."""
    return f"{study.results}/plans/{corpus}/{evaluation}.parquet"


def score_files(study: Study, corpus: str, evaluation: str, message: str) -> list[str]:
    """Scores of a message, one file per shard of the plan."""
    folder = f"{study.results}/scores/{corpus}/{evaluation}/{message}"
    return [f"{folder}/shard-{shard:05d}.parquet" for shard in range(study.evaluations[evaluation].shards)]


# --- what each step reads ---------------------------------------------------------------------------------------------


def tokenizer_corpora(study: Study, corpus: str) -> list[str]:
    """For tokenize_corpus: the corpus that the tokenizer was trained on, if it is one of the study's."""
    return [corpus_manifest(study, use.name) for use in references(study.corpora[corpus])]


def training_corpus(study: Study, model: str) -> str:
    """For train_model, finetune_model, fit_markov: the corpus that a model is trained on or counted from."""
    (corpus,) = [use.name for use in references(study.models[model]) if use.section == "corpora"]
    return corpus_manifest(study, corpus)


def parent_model(study: Study, model: str) -> list[str]:
    """For train_model and finetune_model: the model that training starts from, or whose adapters are trained."""
    uses = [use for use in references(study.models[model]) if use.section == "models"]
    return [path for use in uses for path in model_files(study, use.name)]


def training_folder(study: Study, model: str) -> str:
    """Where training keeps checkpoints to go on from: a folder of this row alone, so that no other row finds them."""
    digest = hashlib.sha256(row_json(study.models[model]).encode()).hexdigest()[:12]
    return f"{study.results}/work/{model}-{digest}"


def calibrated_model(study: Study, calibration: str) -> list[str]:
    """For calibrate_model: the model."""
    return model_files(study, study.calibrations[calibration].model)


def calibration_corpus(study: Study, calibration: str) -> str:
    """For calibrate_model: the corpus."""
    return corpus_manifest(study, study.calibrations[calibration].corpus)


def encoded_model(study: Study, message: str) -> list[str]:
    """For encode_model: the model."""
    return model_files(study, study.messages[message].model)


def encoding_corpus(study: Study, message: str) -> list[str]:
    """For encode_model: the corpus for which steps are searched, or on which the model is trained further."""
    row = study.messages[message]
    searched = [use.name for use in references(row.quantizer) if use.section == "corpora"]
    if searched:
        return [corpus_manifest(study, name) for name in searched]
    trains = row.quantizer.needs().training_steps > 0 or row.smoothing_head is not None
    return [training_corpus(study, row.model)] if trains else []


def encoding_calibration(study: Study, message: str) -> list[str]:
    """For encode_model: the calibration that the quantizer names, if it does."""
    uses = [use for use in references(study.messages[message]) if use.section == "calibrations"]
    return [f"{study.results}/calibrations/{use.name}.safetensors" for use in uses]


def side_information(study: Study, message: str) -> list[str]:
    """For encode_model, score_shard and measure_task: the base of a message, and the coarse message that it refines."""
    return _side_information(study, [message])


def compared_model(study: Study, message: str) -> str | None:
    """Name of the model with whose predictions a message's are compared, if one of its certificates asks for that."""
    asked = any(row.bounds.faithfulness and row.message == message for row in study.certificates.values())
    return study.messages[message].model if asked else None


def centre_order(study: Study, corpus: str, evaluation: str, message: str) -> int:
    """For score_shard: order of the n-grams of which a certificate with this message wants cross-entropies, or 0."""
    asked = [
        row.bounds.centre_order or 0
        for row in study.certificates.values()
        if (row.corpus, row.evaluation, row.message) == (corpus, evaluation, message)
    ]
    return max(asked, default=0)


def original_model(study: Study, message: str) -> list[str]:
    """For score_shard: the model with whose predictions a message's are compared, if they are."""
    model = compared_model(study, message)
    return [] if model is None else model_files(study, model)


def certificate_files(study: Study, certificate: str) -> dict[str, str | list[str]]:
    """For certify_bound: the files that a certificate rests on."""
    row = study.certificates[certificate]
    return {
        "manifest": corpus_manifest(study, row.corpus),
        "plan": plan_file(study, row.corpus, row.evaluation),
        "messages": [message_file(study, name) for name in row.messages],
        "scores": [path for name in row.messages for path in score_files(study, row.corpus, row.evaluation, name)],
        "trained_on": [corpus_manifest(study, name) for name in _not_to_overlap(study, row)],
        "side_information": _side_information(study, row.messages),
        "original": original_model(study, row.message) if row.bounds.faithfulness else [],
    }


def certificate_spec(study: Study, certificate: str) -> str:
    """For certify_bound: what each of these files is to the certificate, and what it states, as JSON."""
    row = study.certificates[certificate]
    corpora = [f"{study.results}/corpora/{name}" for name in _not_to_overlap(study, row)]
    held_out = row.prior == "held_out"
    links = [
        {"message": message_file(study, name), "scores": score_files(study, row.corpus, row.evaluation, name)}
        for name in row.messages
    ]
    inputs = {
        "corpus": f"{study.results}/corpora/{row.corpus}",
        "plan": plan_file(study, row.corpus, row.evaluation),
        "links": links,
        "held_out": corpora if held_out else None,
        "base_corpora": [] if held_out else corpora,
        "held_out_because": row.held_out_because or "",
        "side_information": [
            *(message_file(study, name) for name in _coarse_messages(study, row.messages)),
            *(f"{study.results}/models/{name}" for name in _bases(study, row.messages)),
        ],
    }
    model = study.messages[row.message].model
    inputs["original"] = f"{study.results}/models/{model}" if row.bounds.faithfulness else None
    return canonical_json(
        {"study": study.study, "model": model, "inputs": inputs, "bounds": json.loads(row_json(row.bounds))}
    )


def task_corpus(study: Study, task: str) -> list[str]:
    """For run_task and draw_questions: the corpus that a task draws questions from, if it does."""
    return [corpus_manifest(study, name) for name in _task_corpora(study, task)]


def asked_corpus(study: Study, task: str) -> list[str]:
    """For measure_task: the corpus whose documents are asked, if no file of questions is."""
    return [] if study.tasks[task].kind == "zero_shot" else task_corpus(study, task)


def drawn_questions(study: Study, task: str) -> list[str]:
    """For measure_task: the file of zero-shot questions that were drawn from a corpus, if the task has some."""
    row = study.tasks[task]
    drawn = row.kind == "zero_shot" and row.questions.kind != "files"
    return [f"{study.results}/tasks/{task}/questions.jsonl"] if drawn else []


def reading_corpus(study: Study, message: str) -> str | None:
    """Name of a corpus in the tokens that a message's model reads: that of its training, or one it is certified on."""
    model = study.models[study.messages[message].model]
    if model.kind != "pretrained" and model.kind != "online":
        return model.corpus
    return next((row.corpus for row in study.certificates.values() if message in row.messages), None)


def sampled_original(study: Study, task: str, message: str) -> list[str]:
    """For measure_task: the model before it was encoded, if the task samples from it: a network's."""
    model = study.messages[message].model
    wanted = study.tasks[task].kind == "samples" and study.models[model].kind not in ("markov", "online")
    return model_files(study, model) if wanted else []


def question_tokenizer(study: Study, task: str) -> str:
    """For draw_questions: the tokenizer of the corpus that a task draws questions from, as JSON."""
    (corpus,) = _task_corpora(study, task)
    return row_json(study.corpora[corpus].tokenizer)


def task_tokenizers(study: Study, task: str, message: str) -> str:
    """For measure_task: the tokenizers of the message's model and of the task's corpus, if it has one, as JSON."""
    names = {"model": reading_corpus(study, message), "corpus": next(_task_corpora(study, task), None)}
    return canonical_json(
        {key: json.loads(row_json(study.corpora[name].tokenizer)) for key, name in names.items() if name is not None}
    )


def _task_corpora(study: Study, task: str) -> Iterator[str]:
    return (use.name for use in references(study.tasks[task]) if use.section == "corpora")


def _not_to_overlap(study: Study, row: CertificateSpec) -> list[str]:
    """Corpora that held-out models, or otherwise bases, were trained on: they must share no document with the row's."""
    return training_corpora(study, row) if row.prior == "held_out" else base_corpora(study, row)


def _side_information(study: Study, messages: Iterable[str]) -> list[str]:
    messages = list(messages)
    files = [path for name in _bases(study, messages) for path in model_files(study, name)]
    return [*files, *(message_file(study, name) for name in _coarse_messages(study, messages))]


def _bases(study: Study, messages: Iterable[str]) -> list[str]:
    """Bases of messages, each once."""
    return list(dict.fromkeys(base for name in messages if (base := base_model(study, name)) is not None))


def _coarse_messages(study: Study, messages: Iterable[str]) -> list[str]:
    """Messages that messages refine, each once."""
    return list(dict.fromkeys(coarse for name in messages if (coarse := coarse_message(study, name)) is not None))


# --- the report -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What is tabulated and drawn at the end of a study.

    Attributes
    ----------
    certificates
        All certificates.
    certified_reports, reports
        What the encoder reports on the messages that are certified, and on these and those that tasks test.
    curves
        Training curves of the certified models that were trained, by model.
    figures
        Names of the figures.
    answers
        Answers of the messages that tasks of antibodies test.
    measured, questions, task_tables
        Answers of the messages that other tasks test, the questions that were drawn for them, and the tables that sum
        them up; none without such tasks.
    antibodies
        Tables of antibody models, if the study has tasks or subsets of antibody corpora.
    """

    certificates: list[str]
    certified_reports: list[str]
    reports: list[str]
    curves: dict[str, str]
    figures: list[str]
    answers: list[str]
    measured: list[str]
    questions: list[str]
    task_tables: list[str]
    antibodies: list[str]


def report(study: Study) -> Report:
    """What is tabulated and drawn at the end of a study."""
    certified = sorted({row.message for row in study.certificates.values()})
    tried = {message for task in study.tasks.values() for message in task.messages}
    of_text = {name: task for name, task in study.tasks.items() if isinstance(task, TextTask)}
    of_antibodies = {name: task for name, task in study.tasks.items() if not isinstance(task, TextTask)}
    models = sorted({study.messages[name].model for name in certified})
    trained = [name for name in models if study.models[name].kind in ("trained", "finetuned")]
    labelled = any(
        row.bounds.subsets and isinstance(study.corpora[row.corpus].source, SequenceSource)
        for row in study.certificates.values()
    )
    return Report(
        certificates=[f"{study.results}/certificates/{name}.json" for name in sorted(study.certificates)],
        certified_reports=[f"{study.results}/messages/{name}.json" for name in certified],
        reports=[f"{study.results}/messages/{name}.json" for name in sorted({*certified, *tried})],
        curves={name: f"{study.results}/models/{name}/training.parquet" for name in trained},
        figures=drawn_figures(study),
        answers=[
            f"{study.results}/antibody/tasks/{name}/{message}.parquet"
            for name, task in of_antibodies.items()
            for message in task.messages
        ],
        measured=[
            f"{study.results}/tasks/{name}/{one}.parquet" for name, task in of_text.items() for one in task.messages
        ],
        questions=[path for name in of_text for path in drawn_questions(study, name)],
        task_tables=[
            f"{study.results}/tasks/{table}.{form}" for table in TASK_TABLES for form in ("parquet", "csv") if of_text
        ],
        antibodies=[
            f"{study.results}/antibody/{table}.{form}"
            for table in ANTIBODY_TABLES
            for form in ("parquet", "csv")
            if of_antibodies or labelled
        ],
    )


def tasks_spec(study: Study, *, of_text: bool = False) -> str:
    """For tabulate_antibodies and tabulate_tasks: the rows of their tasks and their answers, as JSON."""
    folder = f"{study.results}/tasks" if of_text else f"{study.results}/antibody/tasks"
    return canonical_json(
        {
            name: [json.loads(row_json(task)), [f"{folder}/{name}/{message}.parquet" for message in task.messages]]
            for name, task in study.tasks.items()
            if isinstance(task, TextTask) == of_text
        }
    )
