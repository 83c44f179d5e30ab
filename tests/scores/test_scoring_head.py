"""Logits to losses, ranks and entropies: against float64, with what is not finite, and however many rows at a time."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenbounds.scores.head import ScoringHead, reduce_on_device
from tokenbounds.scores.reduction import reduce_logits

VOCABULARY, ROWS = 5003, 37  # no multiple of anything that the compiled loops take at once
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def logits():
    draw = np.random.default_rng(3)
    values = (4 * draw.standard_normal((ROWS, VOCABULARY))).astype(np.float32)
    values[:, ::7] = np.rint(values[:, ::7])  # ties
    values[5, 11] = -np.inf
    values[6] = -1000 * np.abs(values[6])
    values[7] = 3.0
    return values


@pytest.fixture(scope="module")
def targets():
    return np.random.default_rng(4).integers(0, VOCABULARY // 7, ROWS) * 7


def reference(logits, targets):
    """Losses in nats, ranks and entropies by the definitions, in float64."""
    logp = torch.from_numpy(logits).double().log_softmax(1)
    wanted = torch.from_numpy(targets)[:, None]
    entropy = -(logp.exp() * logp).nan_to_num(nan=0.0).sum(1)
    rank = (logits >= np.take_along_axis(logits, targets[:, None], 1)).sum(1)
    return -logp.gather(1, wanted)[:, 0].numpy(), rank, entropy.numpy()


def on_device(logits, targets):
    found = reduce_on_device(torch.from_numpy(logits.copy()), torch.from_numpy(targets)[:, None])
    return tuple(values.numpy() for values in found)


def check(found, expected):
    for values, wanted in zip((found[0], found[2]), (expected[0], expected[2]), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=2e-6, atol=5e-6)
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_reduction_agrees_with_float64(logits, targets, threads):
    check(reduce_logits(logits, targets, threads), reference(logits, targets))


def test_both_reductions_agree(logits, targets):
    """What runs on GPUs, here on the CPU."""
    check(on_device(logits, targets), reference(logits, targets))


def test_strictly_larger_logits_are_not_the_rank(logits, targets):
    """The classical mistake, ties in the model's favour, is caught by these logits."""
    expected = reference(logits, targets)
    strict = (logits > np.take_along_axis(logits, targets[:, None], 1)).sum(1) + 1
    with pytest.raises(AssertionError):
        check((expected[0], strict, expected[2]), expected)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("reduce", [on_device, lambda logits, targets: reduce_logits(logits, targets, 1)])
def test_what_is_not_finite_is_not_hidden(logits, targets, bad, reduce):
    spoilt = logits.copy()
    spoilt[9, 4999] = bad
    losses = reduce(spoilt, targets)[0]
    assert not np.isfinite(losses[9])
    assert np.isfinite(np.delete(losses, 9)).all()


def test_rows_do_not_depend_on_their_neighbours(logits, targets):
    whole = reduce_logits(logits, targets, 1)
    for each, one in zip(whole, reduce_logits(logits[12:13], targets[12:13], 2), strict=True):
        assert np.array_equal(each[12:13], one)


def make_head(width=24):
    torch.manual_seed(0)
    module = torch.nn.Linear(width, 97, bias=False)
    return module, torch.randn(700, width), np.random.default_rng(0).integers(0, 97, 700)


@torch.inference_mode()
def test_the_number_of_rows_is_measured_and_logged(caplog):
    module, states, targets = make_head()
    head = ScoringHead(module, CPU, rows=None)
    few = head.score(states[:100], targets[:100])
    assert not caplog.records  # too few to measure
    with caplog.at_level(logging.INFO, logger="tokenbounds.scores.head"):
        measured = head.score(states, targets)
        head.score(states, targets)
    assert len(caplog.records) == 1 and "rows at a time" in caplog.text
    given = ScoringHead(module, CPU, rows=100).score(states, targets)
    for short, all_of_them, other in zip(few, measured, given, strict=True):
        np.testing.assert_allclose(all_of_them, other, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(short, other[:100], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_rows_that_change_logits_are_not_chosen(monkeypatch, caplog):
    """A product whose rounding depends on how many rows it has: only the usual number is left, whatever is fastest."""
    module, states, targets = make_head()

    class Rounded(torch.nn.Module):
        def forward(self, some):
            return module(some) * (1 + 1e-6 * (len(some) != 128))

    head = ScoringHead(Rounded(), CPU, rows=None)
    found = head.score(states, targets)
    monkeypatch.setattr("tokenbounds.scores.head._TRIED", {"cpu": (128,)})
    expected = ScoringHead(Rounded(), CPU, rows=None).score(states, targets)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@torch.inference_mode()
def test_a_hooked_head_is_called():
    """What accelerate or a parameterization puts around a layer is not left out."""
    module, states, targets = make_head()
    plain = ScoringHead(module, CPU, rows=50).score(states, targets)
    module.forward = lambda some: torch.nn.functional.linear(some, 2 * module.weight)
    hooked = ScoringHead(module, CPU, rows=50).score(states, targets)
    assert not np.allclose(plain[0], hooked[0])


COMPILED_AND_READ = """
import os
import numpy as np
from tokenbounds.scores.reduction import reduce_logits
draw = np.random.default_rng(0)
logits, targets = (3 * draw.normal(size=(500, 256))).astype(np.float32), draw.integers(0, 256, 500)
child = os.fork()
if child:
    assert os.wait()[1] == 0  # it has compiled, and what follows reads numba's cache
print([values.tobytes().hex() for values in reduce_logits(logits.copy(), targets, 1)], flush=True)
os._exit(0)
"""


def test_code_that_was_just_compiled_computes_what_code_of_the_cache_does(tmp_path):
    """Without the call of `_sums` beforehand, some losses differ in the last digit."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILED_AND_READ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    compiled, read = done.stdout.splitlines()
    assert compiled == read and list(tmp_path.rglob("reduction._reduce_rows*.nbc"))
