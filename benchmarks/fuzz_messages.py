"""Fuzz the decoder: mutated messages decode, or end in MessageError, within bounded time and memory.

    python benchmarks/fuzz_messages.py 1000000

Among them are messages of every format, and with side information: adapters over a base, an unchanged base, a
refinement. Half of the mutants get a valid checksum again, so that they reach the parsers after it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenbounds.compression.encode import encode_model
from tokenbounds.config import CorpusSpec, JsonLinesSource, MarkovModel, MessageSpec, parse_row
from tokenbounds.corpus.shards import Corpus, tokenize_corpus
from tokenbounds.errors import MessageError
from tokenbounds.files import canonical_json
from tokenbounds.messages.coding.trellis import grid_points, trellis
from tokenbounds.messages.container import CHECKSUM_BYTES, Message, parse_message, render_message, write_varint
from tokenbounds.messages.decode import decode_message
from tokenbounds.messages.formats.published import PublishedFormat
from tokenbounds.messages.formats.scaled import Centre, ScaledFormat, ScaledMatrix
from tokenbounds.messages.smoothing_head import SmoothingHead
from tokenbounds.models.adapters import AdapterCard, attach_adapters, check_adapter
from tokenbounds.models.base import load_base
from tokenbounds.models.build import build_model, coded_parameters, initialize
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint
from tokenbounds.models.identity import checkpoint_sha256
from tokenbounds.models.markov.counts import fit_markov
from tokenbounds.models.online.card import OnlineCard, name_online
from tokenbounds.models.pretrained.lattice_layers import LatticeLayer, PublishedCodes, slots_of

_LLAMA = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
_MODELS = [
    ("gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 2}, {"kind": "dense"}),
    ("gpt2", {"n_layer": 2, "n_embd": 8, "n_head": 2}, {"kind": "lora", "rank": 2}),
    ("llama", _LLAMA, {"kind": "dense"}),
    ("llama", _LLAMA, {"kind": "kronecker", "terms": 2, "left_shapes": {"mlp": [2, 3]}}),
    ("gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 2}, {"kind": "monarch", "blocks": 2}),
    ("gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 2}, {"kind": "subspace", "dimension": 50, "covers": ["mlp"]}),
    ("llama", _LLAMA, {"kind": "subspace", "dimension": 30, "over": {"kind": "lora", "rank": 2}}),
]
_QUANTIZERS = (("uniform", "adaptive"), ("codebook", "adaptive"), ("uniform", "static"))
_TEXT = "the cat sat on the mat, and the dog that sat on the cat sat on the mat; " * 4
_PROGRESS = 50_000
_UNITS = 1 << (20 if sys.platform == "darwin" else 10)  # of ru_maxrss in a MiB


def seeds() -> list[bytes]:
    """Small valid messages of every kind that needs no side information."""
    messages = []
    with tempfile.TemporaryDirectory() as folder:
        for family, config, parameterization in _MODELS:
            card = ModelCard(family, config, 32, 0, 16, parameterization)
            model = build_model(card)
            initialize(model, 0)
            save_checkpoint(folder, model, card)
            quantizers = [({"kind": kind}, coder) for kind, coder in _QUANTIZERS]
            if parameterization["kind"] == "dense":
                quantizers.append(({"kind": "uniform"}, "parallel"))
                quantizers.append(({"kind": "rtn", "target": {"scale": 0.5}}, "adaptive"))
                quantizers += [({"kind": "quip_sharp", "bits": bits}, "adaptive") for bits in (2, 3)]
            for quantizer, coder in quantizers:
                row = json.dumps({"model": "m", "quantizer": quantizer, "coder": coder})
                out = Path(folder) / "m.tbm"
                encode_model(folder, parse_row(MessageSpec, row), out, Path(folder) / "m.json")
                messages.append(out.read_bytes())
    scaled = [message for message in messages if b"scaled" in canonical_header(message)]
    rotated = [make(message) for message in scaled for make in (in_rotated_basis, on_trellis)]
    heads = [with_head(message) for message in messages[:6]]
    return [*messages, *rotated, *heads, *map(published, (2, 3, 4)), *without_layers()]


def without_layers() -> list[bytes]:
    """Markov chains of orders 0 to 3 and online references: models that are no networks."""
    messages = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.jsonl").write_text(json.dumps({"text": _TEXT}) + "\n")
        source = JsonLinesSource(kind="jsonl", paths=(str(folder / "text.jsonl"),))
        tokenize_corpus(CorpusSpec(source=source), "c", folder / "corpus")
        corpus = Corpus.open(folder / "corpus")

        def encode(model: Path, quantizer: str, coder: str) -> None:
            row = json.dumps({"model": "m", "quantizer": {"kind": quantizer}, "coder": coder})
            encode_model(model, parse_row(MessageSpec, row), folder / "m.tbm", folder / "m.json")
            messages.append((folder / "m.tbm").read_bytes())

        for order in range(4):
            fit_markov(MarkovModel(kind="markov", corpus="c", order=order), corpus, folder / f"chain{order}")
            encode(folder / f"chain{order}", "counts", "static" if order == 2 else "adaptive")
        for number, card in enumerate((OnlineCard(14), OnlineCard(14, 300, 2))):
            online = folder / f"online{number}"
            online.mkdir()
            name_online(card, online / "card.json")
            encode(online, "no_values", "adaptive")
    return messages


def canonical_header(data: bytes) -> bytes:
    """The header of a message as JSON."""
    return canonical_json(parse_message(data).header).encode()


def on_trellis(data: bytes) -> bytes:
    """The model with codes of matrices taken for halves of grid points on a trellis.

    Every other one is transposed, and the first, an embedding, gets a centre.
    """
    message = parse_message(data)
    model = build_model(ModelCard.from_dict(message.header["model"]))
    shapes = {name: tuple(value.shape) for name, value in coded_parameters(model).items()}
    plain = ScaledFormat.from_message(message, shapes, "adaptive")
    matrices = {}
    for index, (name, matrix) in enumerate(plain.matrices.items()):
        along = matrix.transpose() if index % 2 else matrix
        points = grid_points(along.codes, trellis(8)).astype(np.int32)
        found = ScaledMatrix(points, along.row_exponents, along.column_exponents, 8)
        matrices[name] = found.transpose() if index % 2 else found
    first = next(iter(matrices))
    centre = Centre(np.arange(len(matrices[first].column_exponents), dtype=np.int32), -16)
    matrices[first] = replace(matrices[first], centre=centre)
    quantized = ScaledFormat(plain.shapes, matrices, plain.vectors)
    return render_message({**message.header, "quantizer": quantized.header()}, quantized.to_parts("adaptive"))


def in_rotated_basis(data: bytes) -> bytes:
    """The same codes and steps, taken for those of rotated layers."""
    message = parse_message(data)
    quantizer = {"kind": "rotated", "seed": 1, "plain": [0]}
    return render_message({**message.header, "quantizer": quantizer}, message.parts)


def published(bits: int) -> bytes:
    """A message of a published QuIP# checkpoint of one layer, with random codes."""
    sizes = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2}
    card, rng = ModelCard("llama", sizes, 32, 0, 16), np.random.default_rng(bits)
    shapes = {name: tuple(value.shape) for name, value in coded_parameters(build_model(card)).items()}
    slots, layers = slots_of(shapes), {}
    for name, slot in slots.items():
        codes = rng.integers(0, 1 << 16, size=(2, slot.outputs, slot.inputs // 8)).astype(np.uint16)
        residuals = None if bits == 2 else codes[1] % (256 if bits == 3 else 65535)
        sides = ((slot.inputs,), (slot.outputs,), (), (len(slot.weights),))
        scales = [np.asarray(rng.normal(size=side), dtype=np.float32) for side in sides]
        layers[name] = LatticeLayer(codes[0], residuals, *scales, None)
    coded = {weight for slot in slots.values() for weight in slot.weights}
    others = {name: np.ones(shape, np.float32) for name, shape in shapes.items() if name not in coded}
    quantized = PublishedFormat(shapes, PublishedCodes(layers, bits, 2.0), others)
    header = {"model": card.to_dict(), "quantizer": quantized.header(), "coder": "adaptive"}
    return render_message(header, quantized.to_parts("adaptive"))


def with_head(data: bytes) -> bytes:
    """The same message with a smoothing head; every model here has 8 hidden values."""
    message = parse_message(data)
    head = SmoothingHead(grid_size=5, step_exponent=-20, codes=np.array([3, -1, 0, 2, 0, 0, -7, 1, 40], np.int32))
    return render_message(message.header, [*message.parts, head.to_part()])


def side_information_seeds(folder: Path) -> tuple[list[bytes], list[Path]]:
    """Small valid messages with side information, and that side information, which stays in `folder`."""
    base, tuned, moved, coarse = folder / "base", folder / "tuned", folder / "moved", folder / "coarse.tbm"
    card = ModelCard("llama", _LLAMA, 32, 0, 16)
    model = build_model(card)
    initialize(model, 0)
    save_checkpoint(base, model, card)
    for place, settings in ((tuned, {"kind": "lora", "rank": 1}), (moved, {"kind": "tiny", "dimension": 5})):
        checked = check_adapter(settings)
        model = attach_adapters(load_base(base)[0], checked)
        initialize(model, 1)
        save_checkpoint(place, model, AdapterCard(checkpoint_sha256(base), checked, 32, 16))
    messages = []
    for source, out, quantizer in (
        (base, coarse, {"kind": "uniform"}),
        (base, folder / "reference.tbm", {"kind": "reference"}),
        (base, folder / "fine.tbm", {"kind": "refinement", "of": "coarse"}),
        (tuned, folder / "uniform.tbm", {"kind": "uniform"}),
        (tuned, folder / "codebook.tbm", {"kind": "codebook"}),
        (moved, folder / "vector.tbm", {"kind": "uniform"}),
    ):
        row = parse_row(MessageSpec, json.dumps({"model": "m", "quantizer": quantizer}))
        encode_model(source, row, out, folder / "m.json", side_information=[base, coarse])
        messages.append(out.read_bytes())
    return messages, [base, coarse]


def mutate(rng: random.Random, messages: list[bytes]) -> bytes:
    """One mutant of one or two messages."""
    data = bytearray(rng.choice(messages))
    if rng.random() < 0.15:
        return mutate_header(rng, parse_message(bytes(data)))
    body = data[:-CHECKSUM_BYTES]
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        position = rng.randrange(len(body)) if body else 0
        action = rng.randrange(6)
        if action == 0 and body:
            body[position] ^= 1 << rng.randrange(8)
        elif action == 1 and body:
            body[position] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif action == 2:
            del body[position:]
        elif action == 3:
            other = rng.choice(messages)
            body[position:] = other[rng.randrange(len(other)) :]
        elif action == 4:
            body[position:position] = write_varint(rng.choice((1 << 20, 1 << 31, 1 << 40, (1 << 56) - 1)))
        else:
            body[position:position] = rng.randbytes(rng.randrange(1, 9))
    return bytes(body) + (
        hashlib.sha256(body).digest()[:CHECKSUM_BYTES] if rng.random() < 0.5 else bytes(data[-CHECKSUM_BYTES:])
    )


_VALUES = (
    *(0, 1, -1, 3, 7, 1 << 12, 1 << 20, 1 << 31, 1 << 63, 1 << 70, 0.5, 1e308, "", "gpt2", "../x", None, True, [], {}),
    *("given", "reference", "refinement", "uniform", {"kind": "reference"}, {"kind": "refinement", "factor": 2}),
)


def mutate_header(rng: random.Random, message: Message) -> bytes:
    """A well-formed message whose header has another value, or key, somewhere."""
    header = json.loads(canonical_json(message.header))
    node = header
    while True:
        key = rng.choice([*node, "n_inner", "kind", "extra"])
        if isinstance(node.get(key), dict) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        if rng.random() < 0.2:
            node.pop(key, None)
        else:
            node[key] = rng.choice(_VALUES)
        return render_message(header, message.parts)


def fuzz(count: int, seed: int = 0) -> tuple[Counter[str], float]:
    """Decode `count` mutants; return how many ended how, and the longest time of the processor in seconds.

    Any exception other than MessageError escapes, after the mutant that caused it was written to `mutant.tbm`.
    """
    rng, outcomes, longest = random.Random(seed), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        nested, places = side_information_seeds(Path(folder))
        messages = [*seeds(), *nested]
        for number in range(1, count + 1):
            mutant = mutate(rng, messages)
            start = time.process_time()  # which other users of the machine do not lengthen
            try:
                decode_message(mutant, places)
                outcomes["decoded"] += 1
            except MessageError:
                outcomes["refused"] += 1
            except BaseException:
                Path("mutant.tbm").write_bytes(mutant)
                raise
            longest = max(longest, time.process_time() - start)
            if number % _PROGRESS == 0:
                print(f"{number} mutants: {dict(outcomes)}, longest {longest:.2f} s", file=sys.stderr, flush=True)
    return outcomes, longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fuzz(10, arguments.seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    outcomes, longest = fuzz(arguments.count, arguments.seed)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / _UNITS
    print(f"{arguments.count} mutants in {time.perf_counter() - start:.0f} s: {dict(outcomes)}")
    print(f"longest decoding {longest:.2f} s of the processor, peak memory grew by {grown:.0f} MiB, no other exception")


if __name__ == "__main__":
    main()
