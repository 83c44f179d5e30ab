"""A smoothing weight for each token: chosen by entropy or by a head, and what that gains."""

import itertools
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from json_certificates import write_certificate
from report_study import certificate_dict
from tokenbounds.bounds.kinds import BPD, BoundKind
from tokenbounds.bounds.smoothing import loss_range, smooth
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.errors import TokenboundsError
from tokenbounds.report import style
from tokenbounds.report.token_alphas import (
    BY_ENTROPY,
    BY_HEAD,
    Groups,
    choose_weights,
    draw_alpha_by_token,
    fixed_choice,
    read_groups,
    token_alpha_table,
)

GRID = (0.001, 0.01, 0.1, 0.3)


def study(root, blocks, *, mode="exhaustive", draws=None, **columns):
    """A certificate of these scores; `blocks` has each token's block, `draws` the draws of each block."""
    raw = certificate_dict(mode=mode)
    path = root / "certificates" / "c.json"
    write_certificate(path, raw)
    scores, plan = path.parent / raw["scores"][0]["file"], path.parent / raw["plan"]["file"]
    for file in (scores, plan):
        file.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"block": blocks, **columns}).write_parquet(scores)
    count = max(blocks) + 1
    lengths = np.bincount(blocks).tolist()
    pl.DataFrame({"block": range(count), "draws": draws or [1] * count, "length": lengths}).write_parquet(plan)
    return read_certificate(path)


def row_of(complexity):
    template = read_row()
    return replace(template, complexity=complexity)


def read_row():
    from tokenbounds.certificates.schema import Row

    names = {"metric": BPD, "bound": BoundKind.AZUMA, "value": 3.0, "empirical": 2.0, "gap": 1.0, "complexity": 1.0}
    rest = {"range": 9.0, "alpha": 0.1, "lambda_": None, "sampling": 0.0, "random_guess": 8.0}
    return Row(**names, **rest, vacuous=False, delta=0.01)


def groups(*losses):
    """Groups of tokens with these losses, one list each, in bins of their own."""
    width = max(map(len, losses))
    masses = np.array([[1.0] * len(each) + [0.0] * (width - len(each)) for each in losses])
    means = np.array([list(each) + [0.0] * (width - len(each)) for each in losses])
    return Groups(np.arange(len(losses)) / 8, masses, means)


def value_of(each, alphas, complexity, tokens):
    """Azuma's bound with a weight for each group, token by token."""
    losses, ranges = [], []
    for place, alpha in enumerate(alphas):
        own = each.means[place][each.masses[place] > 0]
        losses += smooth(own, alpha, 256).tolist()
        ranges += [loss_range(alpha, 256) ** 2] * len(own)
    return np.mean(losses) + math.sqrt(np.mean(ranges) * complexity / (2 * tokens))


@pytest.mark.parametrize("complexity", [10.0, 300.0, 3000.0])
def test_no_other_choice_of_weights_is_better(complexity):
    each, tokens = groups([0.01] * 8, [1.0, 2.0, 3.0], [2.0, 20.0, 60.0]), 10_000
    chosen = choose_weights(each, GRID, 256, row_of(complexity), tokens)
    paid = complexity + 2 * math.log(len(GRID))  # the row's own price pays for one of the three choices
    everything = {
        alphas: value_of(each, alphas, paid, tokens) for alphas in itertools.product(GRID, repeat=len(each.keys))
    }
    best = min(everything, key=everything.get)
    assert tuple(chosen.alphas) == best
    assert chosen.value == pytest.approx(everything[best], rel=1e-12)
    assert chosen.value < min(everything[(alpha,) * 3] for alpha in GRID)  # surprises want more smoothing
    # Without the price of the choices it would be too small.
    assert value_of(each, best, complexity, tokens) < chosen.value


def test_one_weight_for_all_is_azuma_s_bound_at_it():
    each = groups([0.5, 1.5], [4.0])
    found = fixed_choice(each, 0.1, 256, row_of(200.0), 5_000)
    assert found.value == pytest.approx(value_of(each, (0.1, 0.1), 200.0, 5_000))


def test_drawn_blocks_count_as_often_as_they_were_drawn(tmp_path):
    columns = {"nll_bits": np.float32([1.0, 3.0, 5.0]), "entropy_bits": np.float32([2.0, 2.0, 4.125])}
    whole = read_groups(study(tmp_path / "whole", [0, 0, 1], **columns), BY_ENTROPY)
    assert whole.keys.tolist() == [2.0, 4.125]
    assert whole.shares == pytest.approx([2 / 3, 1 / 3])
    drawn = read_groups(study(tmp_path / "drawn", [0, 0, 1], mode="sampled", draws=[1, 3], **columns), BY_ENTROPY)
    assert drawn.shares == pytest.approx([1 / 4, 3 / 4])
    assert drawn.losses(0.1, 256)[0] == pytest.approx(smooth(np.array([1.0, 3.0]), 0.1, 256).mean())


def test_a_head_s_weights_are_its_own(tmp_path):
    rng = np.random.default_rng(0)
    entropies = rng.integers(0, 40, 4_000) / 8
    losses = np.float32(rng.exponential(1 + entropies))
    columns = {"nll_bits": losses, "entropy_bits": np.float32(entropies)}
    by_entropy = token_alpha_table([study(tmp_path / "entropy", [0] * 4_000, **columns)])
    assert set(by_entropy["chosen_by"]) == {BY_ENTROPY}
    assert by_entropy["share"].sum() == pytest.approx(1.0)
    head = np.where(entropies < 2, 0.125, 0.5).astype(np.float32)
    by_head = token_alpha_table([study(tmp_path / "head", [0] * 4_000, alpha=head, **columns)])
    assert set(by_head["chosen_by"]) == {BY_HEAD}
    assert by_head.select("alpha", "share").rows() == [
        (0.125, pytest.approx((entropies < 2).mean())),
        (0.5, pytest.approx((entropies >= 2).mean())),
    ]
    assert by_head["value_fixed"][0] == by_entropy["value_fixed"][0]
    with style.figure_style():
        left, right = draw_alpha_by_token(pl.concat([by_entropy, by_head])).axes
    assert left.get_xlabel() == "smoothing weight α of a token" and len(right.get_yticks()) == 1


def test_scores_without_entropies_have_no_panel(tmp_path):
    certificate = study(tmp_path, [0], nll_bits=np.float32([1.0]))
    assert token_alpha_table([certificate]).is_empty()
    certificate.locate(certificate.scores[0]).unlink()
    with pytest.raises(TokenboundsError, match=r"c\.json cannot be read"):
        token_alpha_table([certificate])
