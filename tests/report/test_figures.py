import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_certificates import write_certificate
from report_study import certificate_dict, write_study, write_training
from tokenbounds.bounds.betting import lambda_grid
from tokenbounds.certificates.sealing import read_certificate
from tokenbounds.errors import TokenboundsError
from tokenbounds.report import figure_data, hover, style
from tokenbounds.report.alpha_curve import alpha_table, loss_histogram
from tokenbounds.report.figures import draw_bound_by_size, draw_figures, draw_loss_by_position
from tokenbounds.report.records import read_certificates
from tokenbounds.rounding import round_up

NAMES = ["bound_by_size", "bound_by_alpha", "loss_by_position", "message_anatomy", "training"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    paths = write_study(root)
    training = {"lora": write_training(root / "models" / "lora" / "training.parquet")}
    return paths, training, draw_figures(paths[:4], root / "figures", training=training)


def test_every_figure_comes_with_its_data(study):
    _, _, figures = study
    assert [path.stem for path in figures] == NAMES
    for path in figures:
        frame = pl.read_parquet(path.with_suffix(".parquet"))
        assert frame.height > 0
        assert pl.read_parquet_metadata(path.with_suffix(".parquet"))["schema_version"] == "1"
        assert pl.read_csv(path.with_suffix(".csv")).columns == frame.columns
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_deterministic(study, tmp_path):
    paths, training, figures = study
    for first, second in zip(
        figures, draw_figures(list(reversed(paths[:4])), tmp_path, training=training), strict=True
    ):
        for suffix in (".svg", ".png", ".csv"):
            assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()
    assert b"<dc:date>" not in figures[0].read_bytes()


def test_no_training_no_training_figure(study, tmp_path):
    assert [path.stem for path in draw_figures(study[0][:1], tmp_path)] == NAMES[:-1]


def test_parts_of_the_gap_add_up(study):
    table = figure_data.size_table(read_certificates(study[0]))
    parts = table["empirical"] + table["gap_complexity"] + table["gap_sampling"]
    assert np.allclose(parts, table["value"], rtol=0, atol=1e-12)


def test_anatomy_shares_add_up_to_one(study):
    table = figure_data.anatomy_table(read_certificates(study[0]))
    assert np.allclose(table.group_by("label").agg(pl.col("share").sum())["share"], 1.0)


def small_study(root, losses, *, start=0, context=0, draws=1, entropies=None):
    """One document of one block with the given losses; returns its certificate."""
    raw = certificate_dict()
    path = root / "certificates" / "c.json"
    write_certificate(path, raw)
    scores, plan = (path.parent / raw[key]["file"] for key in ("message", "plan"))
    scores = path.parent / raw["scores"][0]["file"]
    for file in (scores, plan):
        file.parent.mkdir(parents=True, exist_ok=True)
    count = len(losses)
    positions = np.arange(start, start + count)
    blocks = np.zeros(count, np.int64)
    known = {} if entropies is None else {"entropy_bits": np.float32(entropies)}
    pl.DataFrame({"block": blocks, "position": positions, "nll_bits": np.float32(losses), **known}).write_parquet(
        scores
    )
    row = {"block": [0], "start": [start], "length": [count], "context": [context], "draws": [draws]}
    pl.DataFrame(row).write_parquet(plan)
    return read_certificate(path)


def test_positions_by_hand(tmp_path):
    certificate = small_study(tmp_path, [8.0, 4.0, 2.0, 1.0], start=10, draws=3, entropies=[5.0, 3.0, 6.0, 2.0])
    table = figure_data.position_table([certificate])
    window = table.filter(pl.col("axis") == "window")
    assert window["first"].to_list() == [0, 1, 2, 3]
    assert window["nll_bits"].to_list() == [8.0, 4.0, 2.0, 1.0]
    assert window["tokens"].to_list() == [3, 3, 3, 3]
    # Places 11 … 14 of the document lie in the bins from 2^(13/4), 2^(14/4) and 2^(15/4) on: {11}, {12, 13}, {14}.
    document = table.filter(pl.col("axis") == "document")
    assert document["first"].to_list() == [10, 11, 13]
    assert document["nll_bits"].to_list() == [8.0, 3.0, 1.0]
    assert document["entropy_bits"].to_list() == [5.0, 4.5, 2.0]


def test_entropies_are_drawn_where_they_are_known(tmp_path):
    known = small_study(tmp_path / "known", [4.0] * 40 + [2.0] * 80, draws=30, entropies=[3.0] * 120)
    unknown = small_study(tmp_path / "unknown", [4.0] * 40, draws=30)
    assert figure_data.position_table([unknown])["entropy_bits"].null_count() > 0
    for certificate, lines, keys in ((known, 2, ["raw loss", "entropy of the prediction"]), (unknown, 1, None)):
        axes = draw_loss_by_position(figure_data.position_table([certificate])).axes[1]
        drawn = [line.get_ydata() for line in axes.get_lines()]
        assert len(drawn) == lines and (lines == 1 or set(drawn[1]) == {3.0})
        legend = axes.get_legend()
        assert keys == (legend and [text.get_text() for text in legend.get_texts()])
        assert len(axes.texts) == 1  # one label at the end, the loss's


def test_visible_context_counts_as_place_in_the_window(tmp_path):
    certificate = small_study(tmp_path, [5.0], start=256, context=128)
    window = figure_data.position_table([certificate]).filter(pl.col("axis") == "window")
    assert (window["first"][0], window["last"][0]) == (128, 128)


def test_missing_scores_name_the_certificate(tmp_path):
    certificate = small_study(tmp_path, [5.0])
    certificate.locate(certificate.scores[0]).unlink()
    with pytest.raises(TokenboundsError, match=r"c\.json"):
        figure_data.position_table([certificate])
    with pytest.raises(TokenboundsError, match="shard-00000"):
        alpha_table([certificate])


def test_alpha_curve_by_hand(tmp_path):
    """Azuma at every weight: smoothed mean plus range × sqrt(L / 2m), from the definition."""
    losses = np.array([0.5, 1.25, 9.0])
    certificate = small_study(tmp_path, losses)
    table = alpha_table([certificate]).filter(pl.col("bound") == "azuma")
    row = certificate.row("bpd", "azuma")
    assert table["alpha"].to_list() == list(certificate.settings.alphas)
    assert table.filter(pl.col("certified"))["alpha"].to_list() == [row.alpha]
    for alpha, value, empirical in table.select("alpha", "value", "empirical").iter_rows():
        mean = np.mean(-np.log2((1 - alpha) * 2.0**-losses + alpha / 256))
        width = np.log2(1 + (1 - alpha) * 256 / alpha)
        assert mean - 1e-12 <= empirical <= mean + 2**-12
        assert value - empirical == pytest.approx(width * np.sqrt(row.complexity / (2 * certificate.tokens)), rel=1e-12)


def test_alpha_curve_has_the_best_centre_at_every_weight(tmp_path):
    """From the definition: kappa x mean entropy + (1 - exp(f - L / m)) / lambda, the smallest of both grids."""
    rng = np.random.default_rng(1)
    entropies = rng.choice([0.5, 4.0], 120)
    losses = np.float32(entropies * rng.uniform(0.8, 1.2, 120)).astype(float)
    certificate = small_study(tmp_path, losses, entropies=entropies)
    row = certificate.row("bpd", "betting")
    centred, plain = (
        alpha_table([each]).filter(pl.col("bound") == "betting")
        for each in (certificate, small_study(tmp_path / "plain", losses))
    )
    for alpha, value in centred.select("alpha", "value").iter_rows():
        smoothed = -np.log2((1 - alpha) * 2.0**-losses + alpha / 256)
        found = [
            kappa * entropies.mean()
            - np.expm1(np.mean(np.log1p(-x * (smoothed - kappa * entropies))) - row.complexity / certificate.tokens) / x
            for kappa in certificate.settings.kappas
            for x in lambda_grid(certificate.settings.lambdas, np.log2(256 / alpha))
        ]
        assert value - row.sampling == pytest.approx(min(found), abs=1e-3)
    assert (centred["value"] < plain["value"] - 0.01).any()


def test_series_take_every_model_first(study):
    chosen = figure_data.choose_series(read_certificates(study[0]), limit=5)
    assert {one.model for one in chosen} == {"lora", "dense", "markov-0", "markov-1", "markov-2"}
    assert [one.name for one in chosen if one.model == "lora"] == ["lora-32"]


def test_a_chain_over_the_same_scores_is_no_series_of_its_own(study):
    alone = read_certificates(study[0])
    chained = [replace(one, name=f"{one.name}-chained", chain=(None,)) for one in alone]
    names = [[one.name for one in figure_data.choose_series(each)] for each in (alone, [*chained, *alone])]
    assert names[0] == names[1]


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_labels_are_spread_in_order(positions, distance):
    result = style.spread(positions, distance)
    order = np.argsort(positions, kind="stable")
    assert np.all(np.diff(np.array(result)[order]) >= distance - 1e-9)
    apart = len(positions) == 1 or np.min(np.diff(np.sort(positions))) >= distance
    if apart:
        assert np.allclose(result, positions)


def test_hostile_names_are_drawn_as_text(tmp_path):
    raw = certificate_dict()
    name = "$\\frac{<script>--></svg>$"
    raw = {**raw, "model": name, "message": {**raw["message"], "name": name}}
    path = tmp_path / "certificates" / "c.json"
    write_certificate(path, raw)
    table = figure_data.size_table([read_certificate(path)])
    with style.figure_style():
        svg = style.save(draw_bound_by_size(table), table, tmp_path, "hostile").read_text()
    assert "<script" not in svg
    assert svg.count("</svg>") == 1


def test_sampled_blocks_weigh_their_draws_over_their_length(tmp_path):
    certificate = small_study(tmp_path, [1.0, 3.0])
    blocks = {"block": [0, 7, 7], "position": [0, 0, 1], "nll_bits": np.float32([1.0, 2.0, 4.0])}
    pl.DataFrame(blocks).write_parquet(certificate.locate(certificate.scores[0]))
    plan = {"block": [0, 7], "start": [0, 0], "length": [1, 2], "context": [0, 0], "draws": [3, 2]}
    pl.DataFrame(plan).write_parquet(certificate.locate(certificate.plan))
    histogram = loss_histogram(replace(certificate, plan=replace(certificate.plan, mode="sampled")))
    used = np.flatnonzero(histogram.counts)
    assert (used / 4096).tolist() == [1.0, 2.0, 4.0]
    assert histogram.counts[used].tolist() == [3.0, 1.0, 1.0]


def test_many_bounds_leave_room_for_the_figure(study):
    """A legend that lists every bound of a chained certificate once squeezed the axes to a fifth of the width."""
    table = figure_data.size_table(read_certificates(study[0]))
    names = ["azuma", "betting", "freedman", "mixture", "telescoped"]
    many = pl.concat(
        [table.with_columns(bound=pl.lit(name), value=pl.col("value") + i) for i, name in enumerate(names)]
    )
    figure = draw_bound_by_size(many)
    figure.canvas.draw()
    assert all(axes.get_position().width > 0.6 for axes in figure.axes)


def test_marks_say_their_values(study):
    paths, _, figures = study
    said = {path.stem: re.findall(r'<g class="value"><title>([^<]+)</title>', path.read_text()) for path in figures}
    row = min(read_certificates(paths[:1])[0].rows, key=lambda row: (row.metric.order, row.value))
    dot = (
        f"lora-8, 15.1\u00a0kB: at most {round_up(row.value, 3)} by {row.bound}, measured {round_up(row.empirical, 3)}"
    )
    assert said["bound_by_size"].count(dot) == 2  # the dot, and the tick of what was measured
    sizes = {
        name: pl.read_parquet(path.with_suffix(".parquet")).height for name, path in zip(said, figures, strict=True)
    }
    assert len(said["message_anatomy"]) == sizes["message_anatomy"]
    assert all(len(said[name]) > 10 for name in NAMES)
    assert not any("value: " in path.read_text() for path in figures)


def test_what_a_mark_says_is_escaped():
    assert hover.titled('<g id="value: a &lt;b&gt; &quot;c&quot;">') == (
        '<g class="value"><title>a &lt;b&gt; &quot;c&quot;</title>'
    )


def test_labels_stay_in_the_frame_and_titles_clear_of_keys(study):
    """Two marks close together, near the top: there is room far below alone."""
    rows = figure_data.size_table(read_certificates(study[0][:1]))
    pair = pl.concat([rows.with_columns(pl.lit(name).alias("corpus")) for name in ("one", "other")])
    close = pair.with_columns((pl.col("message_bits") * 1.05).cast(pl.Int64), pl.lit("c2").alias("certificate"))
    table = pl.concat([pair, close]).with_columns(pl.lit(8.6).alias("value"), pl.lit(6.5).alias("empirical"))
    figure = draw_bound_by_size(table)
    figure.canvas.draw()
    for axes in figure.axes:
        frame = axes.get_window_extent()
        (label,) = [text for text in axes.texts if text.get_text() == "lora"]
        assert frame.y0 < label.get_window_extent().y0 and label.get_window_extent().y1 < frame.y1
        assert axes.title.get_window_extent().y0 >= axes.get_legend().get_window_extent().y1
