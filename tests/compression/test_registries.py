"""One entry a quantizer: nothing else knows it by name, and a new one needs no more than CONTRIBUTING says."""

import ast
from pathlib import Path

import pytest
import tokenbounds
from tokenbounds.compression.methods import METHODS
from tokenbounds.config.quantizers import QUANTIZERS
from tokenbounds.messages.formats import FORMATS

LIBRARY = Path(tokenbounds.__file__).parent
MOST_MODULES = 5
# The same word as a value of something else: a tokenizer's `trained_on`, how others mark their checkpoints.
OTHER_MEANINGS = {
    ("published", "config/corpora.py"),
    ("published", "corpus/shards.py"),
    ("codebook", "models/pretrained/quip_sharp.py"),
    ("gptq", "models/pretrained/packed.py"),
}


def names_of(kind):
    """What a module may know a quantizer by: its kind as a literal, its row, its format, its method."""
    found = {QUANTIZERS[kind].__name__, METHODS[QUANTIZERS[kind]].__name__}
    if kind in FORMATS:
        found.add(FORMATS[kind].__name__)
    return found - {"quantize"}


def modules_that_know(kind, library=LIBRARY):
    """Modules of the library with one of these names in their code; prose, comments and docstrings do not count."""
    names, found = names_of(kind), set()
    for path in library.rglob("*.py"):
        where = path.relative_to(library).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = {getattr(node, key, None) for key in ("id", "attr", "name")}
            is_literal = isinstance(node, ast.Constant) and node.value == kind and (kind, where) not in OTHER_MEANINGS
            if is_literal or names & {word for word in words if isinstance(word, str)}:
                found.add(where)
    return found


@pytest.mark.parametrize("kind", sorted(QUANTIZERS))
def test_few_modules_know_a_quantizer_by_name(kind):
    found = modules_that_know(kind)
    assert {"config/quantizers.py", "compression/methods/__init__.py"} <= found
    assert len(found) <= MOST_MODULES, sorted(found)


def test_a_module_that_asks_for_a_kind_is_found(tmp_path):
    (tmp_path / "ladder.py").write_text('if row.kind == "gptq":\n    pass\n')
    (tmp_path / "prose.py").write_text('"""As in gptq."""\n')
    assert modules_that_know("gptq", tmp_path) == {"ladder.py"}


def test_every_row_has_a_method_and_every_format_is_registered_under_its_kind():
    assert set(METHODS) == set(QUANTIZERS.values())
    assert all(FORMATS[kind].kind == kind for kind in FORMATS)
    assert not any(hasattr(each, "quantize") for each in FORMATS.values())


def test_formats_need_neither_the_encoder_nor_torch(fresh_modules):
    loaded = fresh_modules("tokenbounds.messages.formats")
    assert "numba" in loaded
    assert not loaded & {"torch", "transformers", "pyarrow", "pydantic"}
    assert not any(name.startswith(("tokenbounds.compression", "tokenbounds.config")) for name in loaded)
