"""Online references: nothing known beforehand, nothing seen ahead, the same bits in every replay."""

import copy
import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
from tokenbounds.errors import ModelError
from tokenbounds.models.online.logarithm import log2, log2_table
from tokenbounds.models.online.mixing import ByteMixer
from tokenbounds.models.online.ngrams import Ngrams
from tokenbounds.models.online.tables import confidence_table, rate_table, squash_table, stretch_table

TEXT = np.frombuffer(
    ("def f(x):\n    return x + 1\n" * 40 + "for each in range(10):\n    print(each)\n" * 30).encode(), np.uint8
)
BITS = 14


def losses(*documents, mixer=None):
    mixer = mixer or ByteMixer(BITS)
    return np.concatenate([mixer.losses(document) for document in documents])


def probabilities_of_next(mixer, past):
    """What the predictor gives each byte after `past`, one copy of it per byte: [256]."""
    mixer.losses(past)
    found = np.empty(256)
    for byte in range(256):
        found[byte] = 2.0 ** -float(copy.deepcopy(mixer).losses([byte])[0])
    return found


@pytest.fixture(scope="module")
def read():
    return losses(TEXT)


def test_repetition_is_learned_and_noise_is_not(read):
    assert read[:10].mean() > 5 and read[-200:].mean() < 0.2
    noise = np.random.default_rng(0).integers(0, 256, 20_000).astype(np.uint8)
    assert 8 <= losses(noise).mean() < 8.3


def test_a_replay_gives_the_same_bits(read):
    """On every machine, and with every version that names its method alike."""
    assert losses(TEXT).tobytes() == read.tobytes()
    assert hashlib.sha256(read.tobytes()).hexdigest()[:16] == "c4cd9b33f75b5407"


def test_a_replay_in_another_process_gives_the_same_bits(read):
    program = (
        "import sys, numpy as np; from tokenbounds.models.online.mixing import ByteMixer; "
        "text = np.frombuffer(sys.stdin.buffer.read(), np.uint8); "
        f"sys.stdout.buffer.write(ByteMixer({BITS}).losses(text).tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", program], input=TEXT.tobytes(), capture_output=True, check=True)
    assert done.stdout == read.tobytes()


@pytest.mark.parametrize("cut", [1, 77, 500])
def test_no_prediction_depends_on_what_follows(read, cut):
    changed = TEXT.copy()
    changed[cut:] = np.random.default_rng(cut).integers(0, 256, TEXT.size - cut)
    assert losses(changed)[:cut].tobytes() == read[:cut].tobytes()
    assert losses(changed)[cut:].tobytes() != read[cut:].tobytes()


@pytest.mark.parametrize("cut", [0, 400])
def test_probabilities_of_the_next_byte_add_up_to_one(cut):
    assert probabilities_of_next(ByteMixer(BITS), TEXT[:cut]).sum() == pytest.approx(1, abs=1e-5)


def test_a_reference_that_peeks_is_caught_by_the_sum():
    class Peeking(ByteMixer):
        def losses(self, document):
            super().losses(document)  # learns before it predicts
            return ByteMixer.losses(copy.deepcopy(self), document)

    assert probabilities_of_next(Peeking(BITS), TEXT[:30]).sum() > 1.5


def test_documents_are_read_in_order_and_what_was_learned_stays():
    half = TEXT.size // 2
    first, second = TEXT[:half], TEXT[half:]
    assert losses(second).mean() > losses(first, second)[half:].mean()
    assert losses(first, second).tobytes() != losses(second, first).tobytes()


def test_full_tables_still_give_probabilities():
    many = np.random.default_rng(1).integers(0, 256, 60_000).astype(np.uint8)
    mixer = ByteMixer(12)
    assert np.isfinite(mixer.losses(many)).all()
    assert probabilities_of_next(mixer, TEXT[:5]).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("bits", [3, 40])
def test_a_table_of_no_sensible_size_is_refused(bits, monkeypatch):
    monkeypatch.setattr("tokenbounds.limits.machine_memory", lambda: 1 << 20)
    with pytest.raises(ModelError, match=r"20 table_bits takes .* of memory, and at most 0\.0 GiB"):
        ByteMixer(20)
    with pytest.raises(ModelError, match="choose 12 to 26"):
        ByteMixer(bits)
    with pytest.raises(ModelError, match="choose 12 to 26"):
        Ngrams(table_bits=bits)


@pytest.fixture(scope="module")
def grams():
    return Ngrams(256, 3, BITS).losses(TEXT)


def test_ngrams_learn_repetition_and_give_the_same_on_every_machine(grams):
    assert grams[:10].mean() > 5 and grams[-200:].mean() < 0.2
    assert Ngrams(256, 3, BITS).losses(TEXT).tobytes() == grams.tobytes()
    assert hashlib.sha256(grams.tobytes()).hexdigest()[:16] == "d40acc69335b4078"


@pytest.mark.parametrize("cut", [1, 3, 77, 500])
def test_ngrams_fetch_ahead_but_do_not_look_ahead(grams, cut):
    changed = TEXT.copy()
    changed[cut:] = np.random.default_rng(cut).integers(0, 256, TEXT.size - cut)
    assert Ngrams(256, 3, BITS).losses(changed)[:cut].tobytes() == grams[:cut].tobytes()


def test_ngrams_follow_their_definition_by_hand():
    """Two tokens in turn, of four: what is shared with the shorter context is 30000 / 65536 at first, then learned."""
    found = 2.0 ** -Ngrams(4, 1, BITS).losses([1, 2, 1, 2]).astype(float)
    e = 30000 / 65536
    one_of_two = (1 - e) / 2 + e / 4
    learned = e + (e / 4 / one_of_two - e) / 128
    one_of_three = (1 - learned) / 3 + learned / 4
    expected = np.array([1 / 4, e / 4, one_of_two, 1 - e + e * one_of_three])  # uniform; new; known; after a 1 only 2
    np.testing.assert_allclose(found, expected * 4095 / 4096 + 1 / 4096 / 4, rtol=1e-5)


@pytest.mark.parametrize(("size", "order", "cut"), [(256, 3, 400), (40, 2, 5), (3, 8, 300), (300, 1, 270)])
def test_probabilities_of_ngrams_add_up_to_one_and_never_to_more(size, order, cut):
    """Every token after one past, in the same document; 300 tokens overflow the lines of seven followers."""
    past = np.random.default_rng(0).geometric(0.05, cut) % size
    found = [2.0 ** -float(Ngrams(size, order, 12).losses(np.append(past, token))[-1]) for token in range(size)]
    assert 1 - 1e-5 < sum(found) <= 1 + 1e-6  # losses are rounded to float32
    assert min(found) > 0.99 * 2.0**-12 / size


def test_ngrams_of_many_tokens_stay_finite_and_refuse_others():
    grams = Ngrams(5000, 2, 12)
    assert np.isfinite(grams.losses(np.random.default_rng(1).integers(0, 5000, 20_000))).all()
    with pytest.raises(ModelError, match="beyond the 5000 of this reference"):
        grams.losses([3, 5000])


def test_tables_are_monotone_and_inverse():
    squash, stretch = squash_table().astype(int), stretch_table().astype(int)
    assert np.all(np.diff(squash) >= 0) and np.all(np.diff(stretch) >= 0)
    assert squash[2047] == 32768 and squash[0] + squash[-1] == 65536
    there = squash[stretch + 2047] / 65536
    inner = np.abs(stretch) < 2047
    assert np.abs(there - (np.arange(4096) + 0.5) / 4096)[inner].max() < 1e-3
    assert rate_table()[0] == 40960 and np.all(np.diff(rate_table()) <= 0)
    assert confidence_table()[[0, 1, 24, 30, 255]].tolist() == [0, 1, 32, 40, 40]


def test_the_logarithm_is_exact_to_the_last_bits():
    """Compared with the C library's, whose last bit may differ between machines."""
    table = log2_table()
    assert all(log2(2.0**n, table) == pytest.approx(n, abs=1e-15) for n in (-60, -1, 0, 16, 128))
    values = np.exp(np.random.default_rng(0).uniform(-40, 90, 2000))
    assert max(abs(log2(value, table) - math.log2(value)) for value in values) < 2.0**-44
    # Half of the table's steps, and the ends of a part, where the series is longest.
    edges = np.arange(256, 512) / 512
    assert max(abs(log2(edge, table) - math.log2(edge)) for edge in edges) < 2.0**-50
