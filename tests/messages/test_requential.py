"""A requential message: another process finds the student by replaying its training, and damage is refused."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from tokenbounds.errors import MessageError
from tokenbounds.messages.container import parse_message

FILE = Path(__file__).parents[2] / "benchmarks" / "requential.py"
sys.path.append(str(FILE.parent))
import _requential_student as students  # noqa: E402
import requential  # noqa: E402

PLAN = requential.Plan(
    context=3, width=4, hidden=8, rounds=6, texts=4, candidates=8, first_block=2, last_block=6, rate=0.05
)
TEXT = np.frombuffer(b"the cat sat on the mat and the rat sat on the hat. " * 8, dtype=np.uint8)


def batches(plan):
    rows = np.lib.stride_tricks.sliding_window_view(TEXT, plan.context + 1)
    for step in count():
        yield rows[(np.arange(64) * 17 + step * 5) % len(rows)]


def encoded(plan):
    teacher = requential.Teacher(plan, batches(plan), rate=0.02, most=3, carried_bits=3.0)
    return requential.encode(plan, teacher, np.bincount(TEXT, minlength=256))


@pytest.fixture(scope="module")
def message():
    return encoded(PLAN)


def test_another_process_with_other_threads_finds_the_same_student(message, tmp_path):
    data, student = message
    (tmp_path / "student.tbm").write_bytes(data)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    command = [sys.executable, str(FILE), "--decode", str(tmp_path / "student.tbm"), "--no-loss"]
    run = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == requential.fingerprint(student)


def test_sampled_choices_come_back_too():
    data, student = encoded(replace(PLAN, selection="sampled", rounds=3))
    _, again = requential.decode(parse_message(data))
    assert requential.fingerprint(again) == requential.fingerprint(student)


def test_the_teacher_is_followed(message):
    """The text costs less than with the frequencies that the message begins with."""
    _, student = message
    plan, levels, _ = requential._read(parse_message(message[0]))
    rows = next(batches(PLAN))
    before = students.Student(requential.Replay(plan, levels).parameters).log2_probabilities(rows).mean()
    assert students.Student(student).log2_probabilities(rows).mean() > before + 0.1


def test_one_other_choice_is_another_student(message):
    plan, levels, choices = requential._read(parse_message(message[0]))
    choices[2, 1] ^= 1
    _, other = requential.decode(parse_message(requential.write(plan, levels, choices)))
    assert requential.fingerprint(other) != requential.fingerprint(message[1])


def test_products_do_not_depend_on_the_order_of_terms():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((40, 64)), rng.standard_normal((64, 30))
    order = rng.permutation(64)

    def differ(left, right):
        first, other = (students.exact_product(left, right), students.exact_product(left[:, order], right[order]))
        return not np.array_equal(first, other)

    for dtype, bits in ((np.float64, 12), (np.float32, 6)):
        assert not differ(*(students.rounded(each, bits, 4.0).astype(dtype) for each in (left, right)))
        assert differ(left.astype(dtype), right.astype(dtype))  # what an unrounded product would do
    with pytest.raises(OverflowError, match="could reach"):
        students.exact_product(np.full((1, 2), 2.0**27), np.full((2, 1), 2.0**26))


def test_a_replay_without_rounding_is_caught(message, monkeypatch):
    monkeypatch.setattr(students, "rounded", lambda values, bits, largest: values * 2.0**bits)
    _, other = requential.decode(parse_message(message[0]))
    assert requential.fingerprint(other) != requential.fingerprint(message[1])


def test_the_gradient_is_that_of_the_loss(message):
    """Along the gradient, the loss changes as it says, up to the rounding of its terms."""
    rows, parameters = next(batches(PLAN)), message[1]
    gradient = students.Student(parameters).gradient(rows)
    for name, slope in gradient.items():
        length = 0.5 / np.linalg.norm(slope)
        ahead, behind = (
            students.Student({**parameters, name: parameters[name] + sign * length * slope}) for sign in (1, -1)
        )
        change = (behind.log2_probabilities(rows) - ahead.log2_probabilities(rows)).mean() * np.log(2)
        assert change == pytest.approx(2 * length * np.sum(slope**2), rel=0.1), name


def test_damage_is_refused(message):
    data, _ = message
    for cut in (3, 20, len(data) - 1):
        with pytest.raises(MessageError):
            parse_message(data[:cut])
    plan, levels, choices = requential._read(parse_message(data))
    with pytest.raises(MessageError, match="cannot be"):
        requential.decode(parse_message(requential.write(replace(plan, rounds=5), levels, choices)))
    for damage in ({"hidden": 1 << 20}, {"rate": 2.0}, {"selection": "best"}, {"candidates": 3}, {"rounds": True}):
        with pytest.raises(MessageError):
            replace(plan, **damage)
