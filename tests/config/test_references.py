"""Rows name other rows; the types say which ones."""

from dataclasses import dataclass
from typing import Annotated

from tokenbounds.config import (
    AffinityTask,
    CertificateSpec,
    CorpusSpec,
    FinetunedModel,
    MessageSpec,
    TransformersTokenizer,
)
from tokenbounds.config.base import Reference, Use, nested, references
from tokenbounds.config.corpora import TextSource
from tokenbounds.config.quantizers import Target, WatersicQuantizer


def test_a_message_names_its_model_and_what_its_quantizer_needs():
    target = Target(bound="best", corpus="text")
    row = MessageSpec(model="m", quantizer=WatersicQuantizer(kind="watersic", calibration="c", target=target))
    assert set(references(row)) == {
        Use("model", "models", "m"),
        Use("quantizer.calibration", "calibrations", "c"),
        Use("quantizer.target.corpus", "corpora", "text"),
    }
    row = MessageSpec(model="m", quantizer=WatersicQuantizer(kind="watersic", calibration="c", target=Target(scale=1)))
    assert [use.key for use in references(row)] == ["model", "quantizer.calibration"]


def test_each_member_of_a_list_is_a_reference():
    row = CertificateSpec(message="a", corpus="t", chain=("b", "c"))
    assert [use.name for use in references(row) if use.section == "messages"] == ["a", "b", "c"]
    assert Use("evaluation", "evaluations", "default") in references(row)
    task = AffinityTask(kind="affinity", paths=("x",), messages=("a", "b"), value="v", higher_is_better=True)
    assert [use.name for use in references(task)] == ["a", "b"]


def test_a_value_that_names_no_row_is_no_reference():
    source = TextSource(kind="text", paths=("a.txt",))
    published = CorpusSpec(source=source, tokenizer=TransformersTokenizer(kind="transformers", name="x"))
    assert list(references(published)) == []
    tokenizer = TransformersTokenizer(kind="transformers", name="x", trained_on="other")
    assert list(references(CorpusSpec(source=source, tokenizer=tokenizer))) == [
        Use("tokenizer.trained_on", "corpora", "other")
    ]


def test_references_follow_the_type_and_not_the_name_of_a_key():
    @dataclass(frozen=True)
    class Row:
        anything: Annotated[str, "a note", Reference("tasks", but="none")]
        corpus: str = "no reference"

    assert list(references(Row("some"))) == [Use("anything", "tasks", "some")]
    assert list(references(Row("none"))) == []


def test_nested_parts_have_their_keys():
    row = FinetunedModel(kind="finetuned", base="b", corpus="c")
    assert [key for key, _ in nested(row)] == ["", "parameterization", "training"]
    assert dict(nested(row))["training"] is row.training
