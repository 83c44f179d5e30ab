"""Chains: probabilities, messages and scores."""

import itertools
import random
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from forged_messages import write_message
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.markov import promised_loss
from tokenbounds.config import MessageSpec
from tokenbounds.config.quantizers import CountsQuantizer, UniformQuantizer
from tokenbounds.errors import MessageError, ModelError
from tokenbounds.messages.container import Part, read_message
from tokenbounds.messages.formats.markov import Entries, MarkovFormat, _Budget, decode_chain
from tokenbounds.models.markov import chain as markov
from tokenbounds.models.markov.chain import MarkovChain
from tokenbounds.models.markov.grams import MarkovCard
from tokenbounds.models.markov.tables import UNIT, build_table, weight_scale


def codes(*values):
    return np.array(values, dtype=np.uint64)


def hand_made_chain(order=2):
    """Three tokens; weights chosen so that every probability is a short fraction."""
    tables = [
        build_table(codes(0), codes(0, 1), np.array([2 * UNIT, 3 * UNIT]), 3),
        build_table(codes(1), codes(1 * 3 + 2), np.array([UNIT]), 3),
        build_table(codes(0 * 3 + 1), codes((0 * 3 + 1) * 3 + 0), np.array([3 * UNIT]), 3),
    ]
    return MarkovChain(MarkovCard(order, 3, 0), tables[: order + 1])


def compressed(counted, tmp_path, order, threshold=2, coder="adaptive", levels=16):
    quantizer = CountsQuantizer(kind="counts", levels=levels, threshold=threshold)
    path = tmp_path / f"{order}-{threshold}-{coder}-{levels}.tbm"
    encode_model(
        counted[order], MessageSpec(model="m", quantizer=quantizer, coder=coder), path, path.with_suffix(".json")
    )
    return path


def naive_scores(chain, tokens):
    """Probabilities token by token from `distribution`; ranks by comparing with every token."""
    losses, ranks, entropies = [], [], []
    history = [chain.start_id] * chain.order
    for token in tokens:
        row = chain.distribution(np.array(history[len(history) - chain.order :], dtype=np.int64))
        losses.append(-np.log2(row[token]))
        ranks.append(sum(1 for value in row if value >= row[token]))
        entropies.append(-sum(value * np.log2(value) for value in row))
        history.append(int(token))
    return np.array(losses), np.array(ranks), np.array(entropies)


def test_hand_computed_probabilities():
    chain = hand_made_chain()
    base = [Fraction(7, 18), Fraction(10, 18), Fraction(1, 18)]  # (2, 3, 0) + 1/3, over 6
    after_one = [Fraction(7, 36), Fraction(10, 36), Fraction(19, 36)]  # ((0, 0, 1) + base) / 2
    after_zero_one = [Fraction(115, 144), Fraction(10, 144), Fraction(19, 144)]  # ((3, 0, 0) + after_one) / 4
    for context, expected in [((2, 2), base), ((2, 1), after_one), ((0, 1), after_zero_one), ((1, 0), base)]:
        assert np.allclose(chain.distribution(np.array(context)), [float(value) for value in expected], atol=1e-15)


def test_hand_computed_scores_use_the_start_token():
    nll_bits, rank = hand_made_chain().score(np.array([1, 0, 2], dtype=np.uint16))
    # contexts (0, 0), (0, 1), (1, 0)
    assert np.allclose(nll_bits, -np.log2([10 / 18, 115 / 144, 1 / 18]), atol=1e-6)
    assert list(rank) == [1, 1, 3]
    assert nll_bits.dtype == np.float32 and rank.dtype == np.int32


def test_ties_count_against_the_chain():
    nothing = build_table(codes(0), codes(), np.array([], dtype=np.int64), 4)
    nll_bits, rank = MarkovChain(MarkovCard(0, 4, 0), [nothing]).score(np.array([0, 3]))
    assert list(nll_bits) == [2, 2] and list(rank) == [4, 4]


def test_empty_and_foreign_documents():
    chain = hand_made_chain()
    nll_bits, rank = chain.score(np.array([], dtype=np.uint16))
    assert len(nll_bits) == len(rank) == 0
    with pytest.raises(ModelError, match="vocabulary of 3"):
        chain.score(np.array([3]))


@pytest.mark.parametrize("levels", [2, 3, 16, 64])
def test_weights_are_a_geometric_sequence_of_integers(levels):
    scale = weight_scale(levels)
    assert scale.dtype == np.int64 and scale[0] == 0 and scale[1] == UNIT // 8 and len(scale) == levels + 1
    assert np.all(np.diff(scale) > 0) and UNIT * 800 < scale[-1] < UNIT * 2000


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_distributions_are_positive_and_sum_to_one(counted, tmp_path, order):
    chain = decode_chain(read_message(compressed(counted, tmp_path, order)))
    contexts = [[0] * order, [ord("t")] * order, [255] * order]
    contexts += [list(b"the cat sat"[i : i + order]) for i in range(8)]
    for context in contexts:
        row = chain.distribution(np.array(context, dtype=np.int64))
        assert row.min() > 0 and abs(row.sum() - 1) < 1e-12


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("dense", [True, False])
def test_scores_equal_a_naive_loop(counted, corpus, tmp_path, monkeypatch, order, dense):
    monkeypatch.setattr(markov, "_DENSE_CELLS", 1 << 24 if dense else 0)
    monkeypatch.setattr(markov, "_DENSE_CONTEXTS", 300 if order == 2 else 1 << 24)
    monkeypatch.setattr(markov, "_BLOCK_CELLS", 1000)
    chain = decode_chain(read_message(compressed(counted, tmp_path, order)))
    for tokens in (corpus.document(2)[:150], corpus.document(1), np.arange(256)):
        nll_bits, rank, entropy = chain.predict(tokens)
        losses, ranks, entropies = naive_scores(chain, tokens)
        assert np.allclose(nll_bits, losses, atol=1e-5) and np.array_equal(rank, ranks)
        assert np.allclose(entropy, entropies, atol=1e-9)


def test_message_decodes_alike_in_a_fresh_process(counted, corpus, tmp_path):
    path = compressed(counted, tmp_path, 2)
    nll_bits, rank = decode_chain(read_message(path)).score(corpus.document(3))
    np.save(tmp_path / "tokens.npy", corpus.document(3))
    program = (
        "import sys, numpy as np, tokenbounds.scores.scoring\n"
        "from tokenbounds.messages.container import read_message\n"
        "from tokenbounds.messages.counted import decode_counted\n"
        "chain = decode_counted(read_message(sys.argv[1]))\n"
        "nll_bits, rank = chain.score(np.load(sys.argv[2] + '/tokens.npy'))\n"
        "assert 'torch' not in sys.modules\n"
        "np.save(sys.argv[2] + '/nll.npy', nll_bits); np.save(sys.argv[2] + '/rank.npy', rank)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path), str(tmp_path)], check=True)
    assert np.array_equal(np.load(tmp_path / "nll.npy"), nll_bits)
    assert np.array_equal(np.load(tmp_path / "rank.npy"), rank)


@pytest.mark.parametrize("coder", ["adaptive", "static"])
def test_higher_orders_pay_on_structured_text(counted, corpus, tmp_path, coder):
    means = []
    for order in range(3):
        chain = decode_chain(read_message(compressed(counted, tmp_path, order, coder=coder)))
        losses = np.concatenate([chain.score(document)[0] for document in corpus.iterate()])
        means.append(losses.mean())
    assert means[0] > means[1] + 0.5 and means[1] > means[2]


def test_pruning_is_monotone(counted, tmp_path):
    sizes = [compressed(counted, tmp_path, 2, threshold=count).stat().st_size for count in (1, 50, 500, 10**6)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


def test_message_states_what_the_decoder_needs_and_no_more(counted, tmp_path):
    message = read_message(compressed(counted, tmp_path, 1, levels=20))
    assert message.header == {
        "model": {"family": "markov", "order": 1, "vocabulary_size": 256, "start_id": 0},
        "quantizer": {"kind": "counts", "levels": 20},
        "coder": "adaptive",
    }
    assert sum(message.breakdown.values()) == message.size_bits


def test_other_quantizers_are_refused(counted, tmp_path):
    row = MessageSpec(model="m", quantizer=UniformQuantizer(kind="uniform"))
    with pytest.raises(ModelError, match="card"):
        encode_model(counted[1], row, tmp_path / "x", tmp_path / "y")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_tables_survive_coding(data):
    size, order = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 2))
    coder = data.draw(st.sampled_from(["adaptive", "static"]))
    entries, kept = [], codes(0)
    for depth in range(order + 1):
        if depth:
            longer = [first * size ** (depth - 1) + int(c) for first, c in itertools.product(range(size), kept)]
            kept = codes(*sorted(data.draw(st.sets(st.sampled_from(longer)))) if longer else [])
        cells = [int(c) * size + token for c, token in itertools.product(kept, range(size))]
        chosen = sorted(data.draw(st.sets(st.sampled_from(cells)))) if cells else []
        symbols = np.array([data.draw(st.integers(1, 4)) for _ in chosen], dtype=np.int64)
        entries.append(Entries(kept, codes(*chosen), symbols))
    card = MarkovCard(order, size, 0)
    laid_out = MarkovFormat.lay_out(card, entries, 4)
    (part,) = laid_out.to_parts(coder)
    decoded = MarkovFormat.decode(card, part.data, 4, coder)
    assert decoded.to_parts(coder) == [part]
    for table, again, entry in zip(laid_out.tables, decoded.tables, entries, strict=True):
        for name in ("contexts", "totals", "grams", "weights"):
            assert np.array_equal(getattr(table, name), getattr(again, name))
        assert np.array_equal(table.contexts, entry.contexts)
        assert np.array_equal(table.grams, entry.grams)
        assert np.array_equal(table.weights, weight_scale(4)[entry.symbols])


def test_large_vocabularies_keep_to_their_reach(monkeypatch):
    monkeypatch.setattr("tokenbounds.messages.formats.markov._MAX_CELLS", 64)
    monkeypatch.setattr("tokenbounds.messages.formats.markov._MAX_CANDIDATES", 64)
    size = 1000
    base = Entries(codes(0), codes(*range(10)), np.full(10, 4))
    pairs = Entries(codes(*range(20)), codes(*(c * size + 3 for c in range(20))), np.full(20, 2))
    laid_out = MarkovFormat.lay_out(MarkovCard(1, size, 0), [base, pairs], 4)
    assert list(laid_out.tables[1].contexts) == list(range(20))
    assert set(laid_out.tables[1].grams % np.uint64(size)) <= {0, 1, 2, 3}
    (part,) = laid_out.to_parts("adaptive")
    again = MarkovFormat.decode(MarkovCard(1, size, 0), part.data, 4, "adaptive")
    assert np.array_equal(laid_out.tables[1].grams, again.tables[1].grams)


def rewritten(path, change, part=None):
    message = read_message(path)
    parts = message.parts if part is None else [Part("symbols", part)]
    return write_message(path.with_suffix(".bad"), {**message.header, **change}, list(parts))


@pytest.mark.parametrize(
    "change",
    [
        {"coder": "gzip"},
        {"extra": 1},
        {"quantizer": {"kind": "counts", "levels": 1}},
        {"quantizer": {"kind": "counts", "levels": 10**9}},
        {"quantizer": {"kind": "uniform", "levels": 16}},
        {"quantizer": 3},
        {"model": {"family": "markov", "order": 99, "vocabulary_size": 256, "start_id": 0}},
        {"model": {"family": "markov", "order": 6, "vocabulary_size": 1 << 20, "start_id": 0}},
        {"model": None},
    ],
)
def test_hostile_headers_raise_the_one_error(counted, tmp_path, change):
    message = rewritten(compressed(counted, tmp_path, 1), change)
    with pytest.raises(MessageError):
        decode_chain(message)


@pytest.mark.parametrize("coder", ["adaptive", "static"])
def test_mutated_tables_decode_or_raise_the_one_error(counted, tmp_path, coder):
    path = compressed(counted, tmp_path, 2, coder=coder)
    original, source = read_message(path).part("symbols"), random.Random(1)
    for _ in range(150):
        data = bytearray(original)
        for _ in range(source.randint(1, 4)):
            data[source.randrange(len(data))] = source.randrange(256)
        mutated = bytes(data[: source.randint(1, len(data))] if source.random() < 0.3 else data)
        try:
            chain = decode_chain(rewritten(path, {}, mutated))
        except MessageError:
            continue
        assert abs(chain.distribution(np.array([116, 104])).sum() - 1) < 1e-12


def test_declared_sizes_are_bounded():
    card = MarkovCard(0, 256, 0)
    for data in (b"\xff\xff\xff\xff\x7f\x01\x00", b"\x05\xff\xff\x7f\x00", b"", b"\x80"):
        with pytest.raises(MessageError):
            MarkovFormat.decode(card, data, 16, "adaptive")


def test_promised_loss_is_hand_computed():
    value, marginal = promised_loss(np.array([1.0, 3.0]), np.array([500, 500]), 1000, 8)
    complexity = (1000 * np.log(2) + 3) / 1000
    assert value == pytest.approx(2 + np.sqrt(2 * complexity) + complexity)
    assert marginal == pytest.approx(np.log(2) * (np.sqrt(1 / (2 * complexity)) + 1))


# Chains that were fitted: to text in bytes, and to Zipf-distributed tokens in which half follow from the one before.
FITTED = [(3, 256, 30_679, 2_389_346, 8_616, 2_205_696), (1, 50_000, 1_536, 16_826_850, 441, 50_000)]
FITTED += [(1, 50_000, 95, 940_431, 18, 50_000), (2, 50_000, 946, 10_525_759, 212, 4_244_304)]


@pytest.mark.parametrize("order, size, size_bytes, cells, contexts, candidates", FITTED)
def test_fitted_chains_are_within_what_their_bytes_may_declare(order, size, size_bytes, cells, contexts, candidates):
    budget = _Budget.of(MarkovCard(order, size, 0), size_bytes)
    budget.spend(cells, contexts, candidates)
    with pytest.raises(MessageError, match="larger tables"):
        budget.spend(contexts=budget.contexts + 1)
