"""Rows of tasks of models of text: answers that are generated and checked, and zero-shot questions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from tokenbounds.config.base import STRICT, Called, Checked, Fault, Paths, PositiveInt, Probability, Reference
from tokenbounds.config.certificates import reason_fault

TaskMessages = Annotated[
    tuple[Annotated[str, Reference("messages")], ...],
    Field(min_length=1, description="Message rows whose models are tested."),
]
QuestionCorpus = Annotated[
    str,
    Reference("corpora"),
    Field(description="Corpus row that questions are drawn from; one that no model was trained on."),
]
QuestionCount = Annotated[PositiveInt, Field(description="How many questions are drawn, at most.")]
QuestionSeed = Annotated[int, Field(ge=0, description="Seed of the draw.")]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class GenerationTask(Checked):
    """Write answers to a corpus's prompts, and bound how often a new prompt is answered wrongly.

    A document is a prompt, which ends with `prompt_end`, and its answer, which ends with `answer_end` or the document.
    Documents must be independent and identically distributed: the bound is about a new one. It is the inverse kl of
    0/1 losses (docs/generation.md).
    """

    kind: Literal["generation"]
    corpus: Annotated[str, Reference("corpora"), Field(description="Corpus row whose documents are the prompts.")]
    messages: TaskMessages
    prompt_end: Annotated[
        str, Field(min_length=1, description="What a prompt ends with: the first place in a document where it occurs.")
    ] = "="
    answer_end: Annotated[
        str, Field(min_length=1, description="What ends an answer, in documents and in what is written.")
    ] = "\n"
    tokens: Annotated[PositiveInt, Field(description="Tokens that are written after a prompt, at most.")] = 8
    prompts: Annotated[
        PositiveInt | None, Field(description="Prompts drawn without replacement from the corpus; `null`: all.")
    ] = None
    temperature: Annotated[
        float,
        Field(
            ge=0,
            le=1e6,
            description="0: always the most probable token. Above 0: tokens are drawn at this temperature, by adding "
            "Gumbel noise from `seed`.",
        ),
    ] = 0.0
    seed: Annotated[int, Field(ge=0, description="Seed of the prompts that are drawn, and of the noise.")] = 0
    delta: Annotated[Probability, Field(description="Failure probability of the bounds.")] = 0.05
    prior: Annotated[
        Literal["message", "held_out"],
        Field(
            description="`message`: each model's bits are paid for, a fine-tune's without its base. `held_out`: "
            "nothing is paid for, as the models never saw these prompts."
        ),
    ] = "message"
    held_out_because: Annotated[
        str | None, Field(description="For `held_out`: why models cannot depend on the prompts, with a date.")
    ] = None

    def faults(self) -> Iterator[Fault]:
        """Yield a message that is named twice, and a prior that its reason does not fit."""
        yield from repeated_messages(self.messages)
        if self.prior == "held_out" and self.held_out_because is None:
            yield Fault("held_out_because", "say in a sentence with a date why the models never saw these prompts.")
        elif self.prior == "held_out" and (fault := reason_fault(self.held_out_because or "")):
            yield Fault("held_out_because", fault)
        if self.prior == "message" and self.held_out_because is not None:
            yield Fault("held_out_because", "the messages are paid for. Leave it out, or set prior: held_out.")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class MemorizationTask(Checked):
    """How much of a corpus of sequences is reproduced: terms, and whole sequences after their first terms."""

    kind: Literal["memorization"]
    corpus: Annotated[str, Reference("corpora"), Field(description="Corpus row of the sequences.")]
    messages: TaskMessages
    delimiter: Annotated[str, Field(min_length=1, description="What ends each term; one token.")] = ","
    given: Annotated[int, Field(ge=0, description="First terms of a sequence that are given and do not count.")] = 3

    def faults(self) -> Iterator[Fault]:
        """Yield a message that is named twice."""
        yield from repeated_messages(self.messages)


@dataclass(frozen=True, config=STRICT)
class QuestionFiles:
    """Questions in JSON lines or Parquet files, one an object or row with the keys `context`, `choices` and `answer`.

    With `choices`, a list of texts, `answer` is the place of the right one, from 0. Without them, `answer` is the text
    to be predicted, the last word for example. A context and what follows it are joined as they are, so that a word
    usually begins with its space.
    """

    kind: Literal["files"]
    paths: Annotated[
        Paths, Field(description="Files, folders (searched for `*.jsonl` and `*.parquet`) or glob patterns.")
    ]


@dataclass(frozen=True, config=STRICT)
class NextIdentifier:
    """Which name comes next in Python code? The true one, or one of three others of the same document.

    Only names that occurred before in the context are asked for.
    """

    kind: Literal["next_identifier"]
    corpus: QuestionCorpus
    questions: QuestionCount = 200
    seed: QuestionSeed = 0


@dataclass(frozen=True, config=STRICT)
class MissingWord:
    """The last word of a sentence, which occurred before in its context, is to be predicted letter for letter."""

    kind: Literal["missing_word"]
    corpus: QuestionCorpus
    questions: QuestionCount = 200
    seed: QuestionSeed = 0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class ZeroShotTask(Checked):
    """Choose among texts by their likelihood, or predict a text greedily; nothing is trained for it.

    Of several choices the likeliest is chosen: by its whole log-likelihood, per token, and per byte.
    """

    kind: Literal["zero_shot"]
    questions: Annotated[
        QuestionFiles | NextIdentifier | MissingWord,
        Field(discriminator="kind", description="Where questions come from: files, or a corpus."),
    ]
    messages: TaskMessages
    resamples: Annotated[PositiveInt, Field(description="Bootstrap samples of each interval.")] = 2000
    seed: Annotated[int, Field(ge=0, description="Seed of the bootstrap.")] = 0

    def faults(self) -> Iterator[Fault]:
        """Yield a message that is named twice."""
        yield from repeated_messages(self.messages)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class SamplesTask(Checked):
    """Text from decoded messages beside text from the models before they were encoded, with the same random numbers.

    Both texts are equal until the two models disagree. Of Markov chains there is only the decoded one's.
    """

    kind: Literal["samples"]
    messages: TaskMessages
    prompts: Annotated[
        tuple[Annotated[str, Called("text")], ...],
        Field(min_length=1, description='What is continued; `""` is the beginning of a document.'),
    ] = ("",)
    tokens: Annotated[PositiveInt, Field(description="Tokens that are drawn after a prompt.")] = 120
    temperature: Annotated[
        float, Field(ge=0, le=1e6, description="Divides log-probabilities; 0: always the most probable token.")
    ] = 1.0
    seed: Annotated[int, Field(ge=0, description="Seed of the draws.")] = 0

    def faults(self) -> Iterator[Fault]:
        """Yield a message that is named twice."""
        yield from repeated_messages(self.messages)


TextTask = GenerationTask | MemorizationTask | SamplesTask | ZeroShotTask


def repeated_messages(messages: tuple[str, ...]) -> Iterator[Fault]:
    """Yield a fault if a message is named twice."""
    if len(set(messages)) != len(messages):
        yield Fault("messages", "a message appears twice. Name each once.")
