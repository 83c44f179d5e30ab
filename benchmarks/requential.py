"""Requential messages: a model written as the choices of a teacher among texts that the model itself proposes.

    python benchmarks/requential.py --encode student.tbm    # two minutes of one core; options set the plan
    python benchmarks/requential.py --decode student.tbm    # SHA-256 of the student, its bits, its loss
    python benchmarks/requential.py --quantize              # the same architecture, trained on the text and rounded

After Qiu, Finzi, Zheng, Zhang and Wilson (2026, arXiv 2607.11883), who state lengths. Here the file is written, and
read again by a process that replays the student's training (`_requential_student` says why it finds the very same one).

In each round the student continues some texts of its own in several ways, drawn from a seed. The encoder, which knows
the corpus and a better model (the teacher), names one of the continuations of each, and the student learns from these.
The choice is the one that the teacher prefers most, by the ratio of its probability to the student's (`greedy`, a fixed
number of bits each), or one drawn such that the teacher could have written it (`sampled`: ordered random coding, Theis
and Ahmed, 2022, where early candidates are favoured and an entropy coder profits).

The teacher starts each round from where it was, a share of the way back to the student, and is trained on the corpus
until its divergence from the student is what the choices can carry.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).parent))  # for code that loads this file by its path
from _requential_student import Adam, Floats, Parameters, Sizes, Student
from tokenbounds.errors import MessageError
from tokenbounds.messages.container import Message, Part, parse_message, render_message
from tokenbounds.models.generator import philox

Bytes = npt.NDArray[np.uint8]

_LEVELS, _NATS_PER_LEVEL = 16, 0.75  # of the first guesses of frequencies
_MOST_WORDS = 1 << 24  # of a round
_LARGEST = {"context": 64, "width": 256, "hidden": 128, "rounds": 1 << 20, "texts": 1 << 12, "candidates": 1 << 16}


@dataclass(frozen=True)
class Plan:
    """What a decoder must know besides the choices.

    Attributes
    ----------
    context, width, hidden
        Sizes of the student.
    seed
        Of its first parameters and of all candidates.
    rounds, texts, candidates
        Steps of training; texts that are continued in each; continuations of each, a power of two.
    first_block, last_block
        Bytes of a continuation in the first and last round, growing linearly between.
    rate
        Of Adam after a short rise, falling linearly to zero.
    selection
        How choices were made, and so how they are written.
    """

    context: int = 8
    width: int = 16
    hidden: int = 64
    seed: int = 1
    rounds: int = 640
    texts: int = 16
    candidates: int = 16
    first_block: int = 8
    last_block: int = 64
    rate: float = 0.01
    selection: Literal["greedy", "sampled"] = "greedy"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "selection":
                fits = value in ("greedy", "sampled")
            elif field.name == "rate":
                fits = type(value) is float and 0 < value < 1
            else:
                fits = type(value) is int and 0 < value <= _LARGEST.get(field.name, 1 << 12)
            if not fits:
                raise MessageError(f"{field.name}: {value!r} is not possible in a requential message.")
        if self.candidates & (self.candidates - 1):
            raise MessageError(f"candidates: {self.candidates} is not a power of two.")
        words = self.texts * self.candidates * max(self.first_block, self.last_block)
        if words > _MOST_WORDS:
            raise MessageError(f"a round of {words} random words is not possible; at most {_MOST_WORDS}.")

    def sizes(self) -> Sizes:
        """Of the student."""
        return Sizes(self.context, self.width, self.hidden)

    def block(self, number: int) -> int:
        """Bytes of each continuation in a round."""
        return self.first_block + (self.last_block - self.first_block) * number // self.rounds


class Replay:
    """The training that encoder and decoder share: everything here is determined by the plan and the choices."""

    def __init__(self, plan: Plan, levels: npt.NDArray[np.int64]) -> None:
        self._plan, self._adam = plan, Adam(plan.sizes())
        self.parameters = plan.sizes().initial(plan.seed)
        self.parameters["output_bias"] = -_NATS_PER_LEVEL * levels
        self.contexts = np.zeros((plan.texts, plan.context), dtype=np.uint8)
        self.number = 0

    def words(self) -> npt.NDArray[np.int64]:
        """This round's random words of 32 bits: [texts, candidates, block]."""
        plan = self._plan
        shape = (plan.texts, plan.candidates, plan.block(self.number))
        raw = philox(plan.seed, f"candidates {self.number}").random_raw(math.prod(shape))
        return (raw >> np.uint64(32)).astype(np.int64).reshape(shape)

    def learn(self, student: Student, texts: Bytes) -> None:
        """One step on the chosen continuations, contexts first [texts, n + block]."""
        plan = self._plan
        rise = min(1.0, (self.number + 1) * 32.0 / plan.rounds)
        rate = plan.rate * rise * (1.0 - self.number / plan.rounds)
        gradient = student.gradient(windows(texts, plan.context))
        self.parameters = self._adam.step(self.parameters, gradient, rate)
        self.contexts = texts[:, -plan.context :]
        self.number += 1


def windows(texts: Bytes, context: int) -> Bytes:
    """Each byte of rows [R, n + k] with the n before it: [R · k, n + 1]."""
    return np.lib.stride_tricks.sliding_window_view(texts, context + 1, axis=1).reshape(-1, context + 1)


def decode(message: Message) -> tuple[Plan, Parameters]:
    """The student of a message, by replaying its training.

    Raises
    ------
    MessageError
        If the message is not of this kind or does not hold what its plan says.
    """
    plan, levels, choices = _read(message)
    replay = Replay(plan, levels)
    try:
        for chosen in choices:
            student = Student(replay.parameters)
            words = replay.words()[np.arange(plan.texts), chosen]  # the others need not be drawn
            replay.learn(student, student.continue_text(replay.contexts, words)[0])
    except OverflowError as error:
        raise MessageError(str(error)) from error
    return plan, replay.parameters


def write(plan: Plan, levels: npt.NDArray[np.int64], choices: npt.NDArray[np.int64]) -> bytes:
    """The bytes of a message from levels [256] and choices [rounds, texts]."""
    if plan.selection == "greedy":
        symbols = _pack(choices, plan.candidates)
    else:
        from tokenbounds.messages.coding.symbols import encode_symbols

        symbols = encode_symbols(choices, plan.candidates)
    parts = [Part("values", _pack(levels, _LEVELS)), Part("symbols", symbols)]
    return render_message({"requential": list(asdict(plan).values())}, parts)


def _read(message: Message) -> tuple[Plan, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The plan, levels [256] and choices [rounds, texts] of a message."""
    raw = message.header.get("requential")
    if not isinstance(raw, list) or len(raw) != len(fields(Plan)):
        raise MessageError("this is not a requential message: its header has no plan, or one of another length.")
    message.check_kinds(["values", "symbols"])
    plan = Plan(*raw)
    levels = _unpack(message.part("values"), 256, _LEVELS)
    count, data = plan.rounds * plan.texts, message.part("symbols")
    if plan.selection == "greedy":
        choices = _unpack(data, count, plan.candidates)
    else:
        from tokenbounds.messages.coding.symbols import decode_symbols

        choices = decode_symbols(data, count, plan.candidates).astype(np.int64)
    return plan, levels, choices.reshape(plan.rounds, plan.texts)


def _pack(numbers: npt.NDArray[np.int64], base: int) -> bytes:
    """Numbers below a power of two, in log2(base) bits each."""
    width = base.bit_length() - 1
    return np.packbits(numbers.reshape(-1, 1) >> np.arange(width) & 1).tobytes()


def _unpack(data: bytes, count: int, base: int) -> npt.NDArray[np.int64]:
    width = base.bit_length() - 1
    if len(data) != -(-count * width // 8):
        raise MessageError(f"{len(data)} bytes cannot be {count} numbers of {width} bits.")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=count * width)
    numbers: npt.NDArray[np.int64] = bits.reshape(count, width).astype(np.int64) @ (1 << np.arange(width))
    return numbers


class Teacher:
    """A model of the student's shape that is trained on the corpus, ahead of the student. Only the encoder has it.

    Parameters
    ----------
    batches
        Rows of n + 1 bytes of the corpus, the last of each to be predicted.
    rate
        Of its training.
    most
        Steps in one round, at most.
    carried_bits
        Divergence of a block from the student beyond which the teacher waits.
    pull
        Share of the way back to the student at the start of a round: what the student has not learned after several
        rounds is not worth its bits.
    """

    def __init__(self, plan: Plan, batches: Iterator[Bytes], *, rate: float, most: int, carried_bits: float) -> None:
        self._batches, self._adam = batches, Adam(plan.sizes())
        self._rate, self._most, self._carried_bits, self._pull = rate, most, carried_bits, 0.2
        self.parameters: Parameters = {}
        self.divergence_bits = 0.0  # of the latest block

    def advance(self, parameters: Parameters, student: Student, rows: Bytes, block: int) -> Student:
        """Train until a block diverges enough from the student after text of its own, rows [R, n + 1]."""
        mine = self.parameters or parameters
        mine = {name: value + (parameters[name] - value) * self._pull for name, value in mine.items()}
        for step in range(self._most + 1):
            teacher = Student(mine)
            self.divergence_bits = block * divergence_bits(teacher, student, rows)
            if step == self._most or self.divergence_bits >= self._carried_bits:
                break
            mine = self._adam.step(mine, teacher.gradient(next(self._batches)), self._rate)
        self.parameters = mine
        return teacher


def divergence_bits(teacher: Student, student: Student, rows: Bytes) -> float:
    """Mean KL(teacher ‖ student) of the predictions after n bytes of each row, bits."""
    weights = [model.weights(model.hidden(rows)).astype(np.float64) for model in (teacher, student)]
    p, q = (each / each.sum(axis=1, keepdims=True) for each in weights)
    return float((p * np.log2(p / q)).sum(axis=1).mean())


def frequency_levels(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many steps each byte's logarithm is below the most frequent byte's [256]."""
    logs = np.log(counts + 0.5)
    return np.minimum(np.rint((logs.max() - logs) / _NATS_PER_LEVEL), _LEVELS - 1).astype(np.int64)


def choose(log_ratios: Floats, plan: Plan, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """A candidate for each text, from log2 of teacher's over student's probabilities [texts, candidates]."""
    if plan.selection == "greedy":
        return log_ratios.argmax(axis=1)
    arrivals = generator.exponential(size=log_ratios.shape).cumsum(axis=1)
    return np.argmin(np.log2(arrivals) - log_ratios, axis=1)


def encode(
    plan: Plan, teacher: Teacher, counts: npt.NDArray[np.int64], report: Callable[[Replay], None] = lambda replay: None
) -> tuple[bytes, Parameters]:
    """The message and the student that it decodes to.

    Parameters
    ----------
    counts
        How often each byte occurs in the corpus [256].
    report
        Called after each round.
    """
    levels, generator = frequency_levels(counts), np.random.default_rng(plan.seed)
    replay, choices = Replay(plan, levels), np.zeros((plan.rounds, plan.texts), dtype=np.int64)
    for number in range(plan.rounds):
        student, words = Student(replay.parameters), replay.words()
        block = words.shape[2]
        contexts = np.repeat(replay.contexts, plan.candidates, axis=0)
        texts, logs = student.continue_text(contexts, words.reshape(-1, block))
        rows = windows(texts, plan.context)
        ahead = teacher.advance(replay.parameters, student, rows[generator.integers(0, len(rows), 256)], block)
        ratios = (ahead.log2_probabilities(rows).reshape(-1, block) - logs).sum(axis=1)
        choices[number] = choose(ratios.reshape(plan.texts, plan.candidates), plan, generator)
        replay.learn(student, texts.reshape(plan.texts, plan.candidates, -1)[np.arange(plan.texts), choices[number]])
        report(replay)
    return write(plan, levels, choices), replay.parameters


def fingerprint(parameters: Parameters) -> str:
    """SHA-256 of all values, in order."""
    return hashlib.sha256(b"".join(value.astype("<f8").tobytes() for value in parameters.values())).hexdigest()


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--encode", type=Path, metavar="FILE", help="write a student to a message")
    action.add_argument("--decode", type=Path, metavar="FILE", help="read one")
    action.add_argument("--quantize", action="store_true", help="train and round the same architecture")
    for field in fields(Plan):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--teacher-rate", type=float, default=0.003)
    parser.add_argument("--teacher-steps", type=int, default=6, help="in a round, at most")
    parser.add_argument("--no-loss", action="store_true", help="do not read the corpus to measure the student")
    asked = parser.parse_args()
    plan = Plan(**{field.name: getattr(asked, field.name) for field in fields(Plan)})
    if asked.decode:
        data = asked.decode.read_bytes()
        plan, parameters = decode(parse_message(data))
        print(fingerprint(parameters))
        if not asked.no_loss:
            from _requential_corpus import Standard

            print(Standard(plan.context).describe(parameters, 8 * len(data)))
        return
    from _requential_corpus import Standard, quantized

    corpus = Standard(plan.context)
    if asked.quantize:
        for row in quantized(plan.sizes(), corpus):
            print(row, flush=True)
        return
    teacher = Teacher(
        plan,
        corpus.batches(1024, seed=plan.seed),
        rate=asked.teacher_rate,
        most=asked.teacher_steps,
        carried_bits=math.log2(plan.candidates),
    )

    def report(replay: Replay) -> None:
        if replay.number % max(1, plan.rounds // 8) == 0:
            bits = round(replay.number * plan.texts * math.log2(plan.candidates))
            print(f"{replay.number} rounds: {corpus.describe(replay.parameters, bits)}", flush=True)

    data, parameters = encode(plan, teacher, corpus.counts, report)
    asked.encode.write_bytes(data)
    print(fingerprint(parameters))
    print(corpus.describe(parameters, 8 * len(data)))


if __name__ == "__main__":
    main()
