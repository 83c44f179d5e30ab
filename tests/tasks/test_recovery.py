"""Recovery of regions: which residues are asked for, what a model sees of them, and how answers are counted."""

import numpy as np
import polars as pl
import pytest
import torch
from tokenbounds.antibodies import iglm
from tokenbounds.antibodies.labels import Chain, Region
from tokenbounds.antibodies.vocabulary import AMINO_ACID_IDS, AMINO_ACIDS, encode_text
from tokenbounds.config import AntibodyTokenizer, CorpusSpec, CsvSource, KeepSpec, RecoveryTask
from tokenbounds.corpus.shards import tokenize_corpus
from tokenbounds.errors import TokenboundsError
from tokenbounds.messages.decode import decode_message
from tokenbounds.tasks.layouts import IglmLayout, OwnLayout, layout_of
from tokenbounds.tasks.predictors import continue_greedily
from tokenbounds.tasks.recovery import Question, answer_questions, draw_questions, summarize_recovery
from tokenbounds.tasks.run import run_task
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

torch.set_num_threads(1)
HEAVY = (
    "QVQLVESGGGLVKPGGSLRLSCAASGFTFSDYYMSWIRQAPGKGLEWVSYISSSSSYTNYADSVKGRFTISRDNAKNSLYLQMNSLRAEDTAVYYC"
    "ARVKRRGWFWGQGTLVTVSS"
)


def task(**changes):
    row = {"kind": "recovery", "corpus": "heavy", "messages": ("m",), "sequences": 6}
    return RecoveryTask(**{**row, **changes})


def make_network(size=29, positions=200):
    torch.manual_seed(0)
    if size == 33:
        sizes = {"vocab_size": 33, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": positions}
        return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.6)).eval()
    sizes = {"vocab_size": 29, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": positions}
    return MistralForCausalLM(MistralConfig(**sizes, initializer_range=0.6)).eval()


# --- questions --------------------------------------------------------------------------------------------------------


def test_the_residues_of_a_region_are_asked_for(study):
    for question in draw_questions(study.corpus(), task(regions=("CDR3", "FWR4"))):
        if question.region is Region.FWR4:
            assert question.residues[question.span] == "WGQGTLVTVSS"
        else:
            assert question.residues[question.span.start - 1] == "C"
            assert question.residues[question.span.stop :] == "WGQGTLVTVSS"
        assert question.chain is Chain.HEAVY
        assert len(question.before) == 0


def test_sequences_are_drawn_by_seed_one_a_document(study):
    drawn = [[q.document for q in draw_questions(study.corpus(), task(seed=seed))] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 6


def test_of_a_family_the_last_member_is_asked_after_all_others(study):
    folder = study.corpus("families", layout={"kind": "family"})
    for question in draw_questions(folder, task(corpus="families")):
        assert question.member == 3
        assert (question.before == encode_text("[ClSep]")[0]).sum() == 3


def corpus_of(folder, sequences, **keep):
    """A corpus of heavy chains, numbered by immunum."""
    pytest.importorskip("immunum")
    (folder / "t.csv").write_text("VH\n" + "\n".join(sequences) + "\n")
    source = CsvSource(kind="csv", paths=(str(folder / "t.csv"),), heavy="VH", keep=KeepSpec(**keep))
    spec = CorpusSpec(source=source, tokenizer=AntibodyTokenizer(kind="antibody"), shards=1)
    tokenize_corpus(spec, "c", folder / "c")
    return folder / "c"


def test_of_a_region_with_a_gap_all_residues_are_asked_for(tmp_path):
    gapped = HEAVY.replace("VKRRG", "VK---RRG").replace("QVQL", "QV-QL")
    (question,) = draw_questions(corpus_of(tmp_path, [gapped], gaps=True), task())
    assert question.residues == HEAVY and question.residues[question.span] == "ARVKRRGWF"
    assert answer_questions(Memory([]), [question])["truth"].to_list() == ["ARVKRRGWF"]


@pytest.mark.parametrize(("whole", "unknown"), [("VKRRG", "VKXRG"), ("ARVKR", "AXVKR"), ("QVQLV", "QVXLV")])
def test_chains_with_an_ambiguous_residue_are_left_out(tmp_path, whole, unknown):
    """In the region or elsewhere; the other chain is asked about as usual."""
    folder = corpus_of(tmp_path, [HEAVY.replace(whole, unknown), HEAVY[:-1]], ambiguous=True)
    (question,) = draw_questions(folder, task())
    assert question.residues == HEAVY[:-1] and question.residues[question.span] == "ARVKRRGWF"


def test_a_corpus_without_such_chains_is_an_error(study):
    with pytest.raises(TokenboundsError, match="no light chain with CDR3"):
        draw_questions(study.corpus(), task(chain="light"))


# --- what a model sees ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [OwnLayout(), IglmLayout()])
def test_nothing_before_a_residue_shows_it(layout):
    """Two chains that differ in the region alone have the same tokens everywhere but in it."""
    first, second = (layout.infill(f"ACDEF{middle}KLM", slice(5, 8), np.array([5, 6])) for middle in ("GHI", "WYV"))
    assert (first.chosen == second.chosen).all()
    assert (first.tokens[~first.chosen] == second.tokens[~second.chosen]).all()
    assert (first.tokens[first.chosen] != second.tokens[second.chosen]).all()
    assert first.chosen[-3:].all()


def test_left_to_right_models_see_what_precedes_and_iglm_both_sides():
    own = OwnLayout().infill("ACDEF", slice(1, 3), encode_text("WW[ClSep]").astype(np.int64))
    assert own.tokens.tolist() == encode_text("WW[ClSep]ACD").tolist()
    masked = IglmLayout().infill("ACDEF", slice(1, 3), np.array([9]))
    assert [iglm.TOKENS[token] for token in masked.tokens] == ["[HUMAN]", "A", "[MASK]", "E", "F", "[SEP]", "C", "D"]
    assert IglmLayout().start_id(Chain.LIGHT) == iglm.LIGHT_ID


def test_iglm_is_told_the_tasks_species_and_a_chain_that_is_known():
    network = make_network(33)
    for species in ("human", "mouse", "camel"):
        written = layout_of(network, species).write("ACD")
        assert iglm.TOKENS[written.tokens[0]] == f"[{species.upper()}]"
    with pytest.raises(TokenboundsError, match="must be told whether a chain is heavy or light"):
        IglmLayout().start_id(Chain.NONE)


# --- answers ----------------------------------------------------------------------------------------------------------


class Memory:
    """A chain of order 4 that knows the sequences it was shown, and nothing else."""

    vocabulary_size, order = 29, 4

    def __init__(self, sequences):
        self.next = {}
        for tokens in sequences:
            padded = [1] * self.order + tokens
            for place, token in enumerate(tokens):
                self.next.setdefault(tuple(padded[place : place + self.order]), token)

    def distribution(self, context):
        found = np.full(29, 0.01)
        found[self.next.get(tuple(np.asarray(context).tolist()), 0)] = 0.72
        return found

    def score(self, tokens, start_id):
        padded = [start_id] * self.order + np.asarray(tokens).tolist()
        rows = [self.distribution(padded[place : place + self.order]) for place in range(len(tokens))]
        chosen = np.array([row[token] for row, token in zip(rows, tokens, strict=True)])
        rank = [(row >= row[token]).sum() for row, token in zip(rows, tokens, strict=True)]
        return -np.log2(chosen).astype(np.float32), np.array(rank, np.int32)


def test_a_chain_that_knows_the_sequence_recovers_it_and_no_other(study):
    questions = draw_questions(study.corpus(), task(regions=("FWR4", "CDR3")))
    known = encode_text(questions[0].residues).tolist()
    frame = answer_questions(Memory([known]), questions)
    assert frame["region"].to_list()[:2] == ["FWR4", "CDR3"]
    assert frame["written"].to_list()[:2] == frame["truth"].to_list()[:2]
    assert frame["recovered"].to_list()[:2] == [11, len(frame["truth"][1])]
    other = frame.filter((pl.col("document") != questions[0].document) & (pl.col("region") == "CDR3"))
    assert (other["recovered"] < other["truth"].str.len_chars() / 2).all()
    assert frame["nll_bits"][0] == pytest.approx(-11 * np.log2(0.72), rel=1e-5)


@pytest.mark.parametrize("size", [29, 33])
def test_greedy_answers_are_those_of_one_token_at_a_time(size):
    network = make_network(size)
    layout = OwnLayout() if size == 29 else IglmLayout()
    generator = np.random.default_rng(0)
    prefixes = [generator.integers(0, size, length) for length in (3, 9, 1, 6)]
    steps = [4, 2, 3, 0]
    start = layout.start_id(Chain.HEAVY)
    found = continue_greedily(network, prefixes, steps, layout.residue_ids, start)
    for prefix, wanted, answer in zip(prefixes, steps, found, strict=True):
        tokens = [start, *prefix.tolist()]
        for _ in range(wanted):
            with torch.no_grad():
                logits = network(torch.tensor([tokens])).logits[0, -1]
            tokens.append(max(layout.residue_ids.tolist(), key=lambda token: float(logits[token])))
        assert answer.tolist() == tokens[len(tokens) - wanted :]


def test_a_chain_continues_by_its_own_distribution(study):
    chain = decode_message(study.message(2))
    (answer,) = continue_greedily(chain, [encode_text("AC").astype(np.int64)], [1], AMINO_ACID_IDS, 1)
    best = np.argmax(chain.distribution(encode_text("AC").astype(np.int64))[AMINO_ACID_IDS])
    assert answer[0] == AMINO_ACID_IDS[best]


def test_prefixes_beyond_the_models_positions_lose_their_beginning():
    network = make_network(positions=8)
    prefix = np.arange(8, 28)
    (answer,) = continue_greedily(network, [prefix], [1], AMINO_ACID_IDS, 1)
    (short,) = continue_greedily(network, [prefix[-7:]], [1], AMINO_ACID_IDS, int(prefix[-8]))
    assert answer.tolist() == short.tolist()


def test_stepwise_counts_and_losses_are_those_of_scoring():
    network = make_network()
    residues, span = "ACDEFGHIKLMNPQRSTVWY", slice(6, 11)
    question = Question(Region.CDR3, 0, 0, Chain.HEAVY, residues, span, np.empty(0, np.int64))
    frame = answer_questions(network, [question])
    with torch.no_grad():
        tokens = [1, *encode_text(residues).tolist()]
        logs = network(torch.tensor([tokens])).logits[0].log_softmax(-1) / np.log(2)
    places = range(span.start, span.stop)
    bits = [-float(logs[place, tokens[place + 1]]) for place in places]
    first = sum(int(logs[place].argmax()) == tokens[place + 1] for place in places)
    assert frame["nll_bits"][0] == pytest.approx(sum(bits), rel=1e-4)
    assert frame["recovered_stepwise"][0] == first
    matches = sum(a == b for a, b in zip(frame["written"][0], residues[span], strict=True))
    assert frame["recovered"][0] == matches
    assert set(frame["written"][0]) <= set(AMINO_ACIDS)


def test_shares_count_residues_and_intervals_hold_them():
    frame = pl.DataFrame(
        {
            "region": ["CDR3", "CDR3"],
            "truth": ["ABCD", "AB"],
            "recovered": [1, 2],
            "recovered_stepwise": [3, 0],
            "nll_bits": [6.0, 3.0],
        }
    )
    (row,) = summarize_recovery(frame)
    assert row["recovered"] == 0.5
    assert row["recovered_stepwise"] == 0.5
    assert row["bits_per_residue"] == 1.5
    assert (row["sequences"], row["residues"]) == (2, 6)
    assert row["recovered_low"] == 0.25
    assert row["recovered_high"] == 1


def test_a_task_writes_its_answers(study, tmp_path):
    out = tmp_path / "answers.parquet"
    frame = run_task(task(), study.message(2), out, corpus=study.corpus())
    assert pl.read_parquet(out).equals(frame)
    assert frame.height == 6
    with pytest.raises(TokenboundsError, match="needs a corpus"):
        run_task(task(), study.message(2), out)
