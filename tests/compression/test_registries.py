"""One entry per quantizer: nothing else knows it by name, and a new one needs no more than CONTRIBUTING says."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tokenbounds
from pydantic.dataclasses import dataclass
from tokenbounds.compression.counted import COUNTED_METHODS
from tokenbounds.compression.encode import encode_model
from tokenbounds.compression.methods import METHODS
from tokenbounds.config import MessageSpec, quantizers
from tokenbounds.config.base import STRICT
from tokenbounds.config.quantizers import QUANTIZERS
from tokenbounds.errors import MessageError
from tokenbounds.messages.container import Part, parse_message, render_message
from tokenbounds.messages.decode import decode_message
from tokenbounds.messages.formats import FORMATS, codebook
from tokenbounds.models.build import coded_parameters
from tokenbounds.models.checkpoint import load_checkpoint

LIBRARY = Path(tokenbounds.__file__).parent
MOST_MODULES = 5
# The same word as a value of something else: a tokenizer's `trained_on`, how others mark their checkpoints.
OTHER_MEANINGS = {
    ("published", "config/corpora.py"),
    ("published", "corpus/shards.py"),
    ("codebook", "models/pretrained/quip_sharp.py"),
    ("gptq", "models/pretrained/packed.py"),
    ("quip_sharp", "models/pretrained/quip_sharp.py"),
}


def names_of(kind):
    """What a module may know a quantizer by: its kind as a literal, its row, its format, its method."""
    found = {QUANTIZERS[kind].__name__, METHODS[QUANTIZERS[kind]].__name__}
    if kind in FORMATS:
        found.add(FORMATS[kind].__name__)
    return found - {"quantize"}


@cache
def words_of(library):
    """Of each module: the texts that are literals of its code, and its names."""
    found = {}
    for path in library.rglob("*.py"):
        literals, names = found[path.relative_to(library).as_posix()] = set(), set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                literals.add(node.value)
            names |= {word for key in ("id", "attr", "name") if isinstance(word := getattr(node, key, None), str)}
    return found


def modules_that_know(kind, library=LIBRARY):
    """Modules of the library with one of these names in their code; prose, comments and docstrings do not count."""
    return {
        where
        for where, (literals, names) in words_of(library).items()
        if names_of(kind) & names or (kind in literals and (kind, where) not in OTHER_MEANINGS)
    }


# Modules to which the word means something else: a corpus by reference.
NAMESAKES = {"reference": {"config/corpora.py", "config/checks.py", "corpus/manifest.py"}}


@pytest.mark.parametrize("kind", sorted(QUANTIZERS))
def test_few_modules_know_a_quantizer_by_name(kind):
    found = modules_that_know(kind) - NAMESAKES.get(kind, set())
    registry = "counted.py" if QUANTIZERS[kind] in COUNTED_METHODS else "methods/__init__.py"
    assert {"config/quantizers.py", f"compression/{registry}"} <= found
    assert len(found) <= MOST_MODULES, sorted(found)


def test_a_module_that_asks_for_a_kind_is_found(tmp_path):
    (tmp_path / "ladder.py").write_text('if row.kind == "gptq":\n    pass\n')
    (tmp_path / "prose.py").write_text('"""As in gptq."""\n')
    assert modules_that_know("gptq", tmp_path) == {"ladder.py"}


def test_every_row_has_a_method_and_every_format_is_registered_under_its_kind():
    assert set(METHODS) == set(QUANTIZERS.values())
    assert all(FORMATS[kind].kind == kind for kind in FORMATS)
    assert not any(hasattr(each, "quantize") for each in FORMATS.values())


def test_formats_need_neither_the_encoder_nor_torch():
    program = "import sys, json, tokenbounds.messages.formats; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    loaded = set(json.loads(done.stdout))
    assert "numba" in loaded
    assert not loaded & {"torch", "transformers", "pyarrow", "polars", "pydantic"}
    assert not any(name.startswith(("tokenbounds.compression", "tokenbounds.config")) for name in loaded)


# --- the example of CONTRIBUTING --------------------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch):
    """What the code of "A quantizer" in CONTRIBUTING defines, each block in the module that the text names."""
    text = (LIBRARY.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text[text.index("**A quantizer.**") : text.index("**A parameterization.**")]
    row, signs, method = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    found = dict(vars(quantizers))
    exec(row, found)
    found |= {name: vars(codebook)[name] for name in ("Format", "MessageError", "Part", "dataclass", "np")}
    found |= {name: vars(codebook)[name] for name in ("ClassVar", "decode_codes", "encode_codes")}
    exec(signs, found)
    exec(method, found)
    monkeypatch.setitem(FORMATS, "signs", found["SignsFormat"])
    monkeypatch.setitem(METHODS, found["SignsQuantizer"], found["quantize_signs"])
    return found


@pytest.mark.parametrize("coder", ["adaptive", "static"])
def test_the_example_of_contributing_encodes_and_decodes(example, checkpoint, tmp_path, coder):
    signs = example["SignsQuantizer"]

    @dataclass(frozen=True, config=STRICT)
    class Row(MessageSpec):
        quantizer: signs  # in place of the union, which the text adds it to

    folder, out, report = checkpoint("llama"), tmp_path / "m.tbm", tmp_path / "m.json"
    message = encode_model(folder, Row(model="m", quantizer={"kind": "signs"}, coder=coder), out, report)
    assert message.header["quantizer"] == {"kind": "signs"}
    before, after = coded_parameters(load_checkpoint(folder)[0]), coded_parameters(decode_message(out))
    for name, value in before.items():
        expected = np.where(value.detach().numpy() > 0, 1, -1) * value.detach().abs().mean().numpy()
        assert np.allclose(after[name].detach().numpy(), expected, rtol=1e-6)
    assert json.loads(report.read_text())["bits_per_parameter"] < 3


def test_damaged_bytes_of_the_example_give_the_one_error(example, checkpoint, tmp_path):
    found = example["SignsFormat"]({"w": np.ones((2, 3), np.int32)}, np.ones(1, np.float32))
    for parts in ([Part("values", b"123"), found.to_parts("adaptive")[1]], found.to_parts("adaptive")[:1]):
        message = parse_message(render_message({"quantizer": found.header()}, parts))
        with pytest.raises(MessageError):
            found.from_message(message, {"w": (2, 3)}, "adaptive")
