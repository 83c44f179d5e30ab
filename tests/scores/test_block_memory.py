"""Memory of scoring block by block does not grow with the depth of the model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import peak_memory

SCRIPT = """
import json, pathlib, sys
import numpy as np
from peak_memory import forget_peak, peak_kibibytes
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.messages.container import read_message, render_message
from tokenbounds.messages.formats.uniform import UniformFormat
from tokenbounds.models.build import coded_shapes
from tokenbounds.models.card import ModelCard
from tokenbounds.scores.placement import placed_predictor
from tokenbounds.scores.plan import plan_scoring
from tokenbounds.scores.scorer import ScoringOptions
from tokenbounds.scores.scoring import make_scorer, score_blocks

WIDTH, INNER = 512, 1408
corpus = MemoryCorpus([np.arange(40, dtype=np.uint16)], 64, start_id=0)
rows = plan_scoring(corpus.lengths, context=32, stride=32, sample_tokens=None, seed=0, shards=1)

def write(layers):
    config = {"num_hidden_layers": layers, "hidden_size": WIDTH, "intermediate_size": INNER, "num_attention_heads": 8}
    card = ModelCard("llama", config, 64, 0, 32)
    draw, shapes = np.random.default_rng(0), coded_shapes(card)
    codes = {name: (draw.random(shape, np.float32) < 0.02).astype(np.int8) for name, shape in shapes.items()}
    values = UniformFormat(codes, dict.fromkeys(shapes, -40))
    header = {"model": card.to_dict(), "quantizer": values.header(), "coder": "static"}
    path = pathlib.Path(sys.argv[1]) / f"{layers}.tbm"
    path.write_bytes(render_message(header, values.to_parts("static")))

def peak(layers, placement):
    options = ScoringOptions(device="cpu", placement=placement)
    forget_peak()
    path = pathlib.Path(sys.argv[1]) / f"{layers}.tbm"
    with placed_predictor(read_message(path), path, (), options) as predictor:
        scored = sum(batch.num_rows for batch in score_blocks(make_scorer(predictor, corpus, options), corpus, rows))
    assert scored == 40
    return peak_kibibytes()

if sys.argv[2] == "write":
    write(4), write(12)
else:
    peaks = [peak(4, "blocks"), peak(12, "blocks"), peak(12, "whole")]
    print(json.dumps({"block": (4 * WIDTH**2 + 3 * WIDTH * INNER) * 4 / 1024, "peaks": peaks}))
"""


def run(folder, what):
    path = os.pathsep.join([str(Path(peak_memory.__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder), "PYTHONPATH": path}
    command = [sys.executable, "-c", SCRIPT, str(folder), what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_eight_more_blocks_take_no_more_memory(tmp_path):
    peak_memory.forget_peak()  # where it cannot be forgotten, there is nothing to test
    run(tmp_path, "write")
    found = json.loads(run(tmp_path, "score"))
    few, many, whole = (kibibytes / found["block"] for kibibytes in found["peaks"])
    assert many - few < 2, found  # in blocks of float32; eight were added
    assert whole - many > 8, found  # held whole, they are noticed
