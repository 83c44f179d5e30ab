"""Importing a quantized file takes the memory of a few tensors, whatever the depth of the model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import peak_memory
import pytest

# A process of its own: the heap of one that ran other tests is full of holes, which count or not as they please.
SCRIPT = """
import json, pathlib, sys
import gguf, torch
from gguf_files import write_model
from peak_memory import forget_peak, peak_kibibytes
from safetensors.torch import save_file
from tokenbounds.config import PretrainedModel
from tokenbounds.models.pretrained import in_place
from tokenbounds.models.pretrained.loading import import_pretrained, load_pretrained
from transformers import LlamaConfig, LlamaForCausalLM

kind, folder = sys.argv[1], pathlib.Path(sys.argv[2])
in_place._RELEASED_AFTER = 1 << 20  # as for a model that is a hundred times as large
config = LlamaConfig(
    vocab_size=64, hidden_size=512, intermediate_size=1024, num_hidden_layers=16, num_attention_heads=4,
    max_position_embeddings=64, bos_token_id=1,
)

def write_gguf():
    plain = gguf.GGUFWriter.add_tensor
    def add(self, name, value, raw_dtype=None):
        if value.ndim == 2:
            raw_dtype = gguf.GGMLQuantizationType.Q8_0
            value = gguf.quants.quantize(value, raw_dtype)
        return plain(self, name, value, raw_dtype=raw_dtype)
    gguf.GGUFWriter.add_tensor = add
    write_model(LlamaForCausalLM(config), folder / "m.gguf")

def write_gptq():
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in LlamaForCausalLM(config).state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        if "_proj" not in name:
            state[name] = torch.ones(shape, dtype=torch.float16)
            continue
        (outputs, inputs), layer = shape, name.removesuffix(".weight")
        state[f"{layer}.qweight"] = torch.randint(-(1 << 31), 1 << 31, (inputs // 8, outputs)).int()
        state[f"{layer}.qzeros"] = torch.full((inputs // 128, outputs // 8), 0x77777777).int()
        state[f"{layer}.scales"] = torch.full((inputs // 128, outputs), 0.01, dtype=torch.float16)
    config.save_pretrained(folder)
    path = folder / "config.json"
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
    save_file(state, folder / "model.safetensors")

if sys.argv[3] == "write":
    {"gguf": write_gguf, "gptq": write_gptq}[kind]()
else:
    spec = PretrainedModel(kind="pretrained", name=str(folder), gguf_file="m.gguf" if kind == "gguf" else None)
    import_pretrained(spec, folder / "first")  # what is imported late
    before = forget_peak()
    import_pretrained(spec, folder / "second")
    imported = peak_kibibytes() - before
    before = forget_peak()
    model = load_pretrained(spec)
    whole = sum(value.nbytes for value in model[0].state_dict().values()) / 1024
    print(json.dumps({"imported": imported / whole, "loaded": (peak_kibibytes() - before) / whole}))
"""


def run(kind, folder, what):
    path = os.pathsep.join(
        [str(Path(peak_memory.__file__).parent), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-c", SCRIPT, kind, str(folder), what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["gguf", "gptq"])
def test_an_import_takes_the_memory_of_a_few_tensors(tmp_path, kind):
    peak_memory.forget_peak()  # where it cannot be forgotten, there is nothing to test
    run(kind, tmp_path, "write")
    found = json.loads(run(kind, tmp_path, "measure"))  # parts of the model of 168 MB in float32
    assert found["imported"] < 0.6, found
    assert found["loaded"] > 0.9, found  # held whole, it is noticed
