"""Who may import whom: layers that point downwards only, no circles, and imports at the head of a file unless start-up
time needs otherwise.
"""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "workflow/tokenbounds"

# From the bottom to the top. What is in one line may import from lines above it and from its own package.
LAYERS = (
    {"errors", "compiled", "draws", "files", "rounding", "seals", "jobs", "progress", "software"}
    | {"surroundings", "terminal", "limits", "sandbox", "confinement", "merkle", "parquet_pages", "threads"},
    {"display"},
    {"bounds"},
    {"config"},
    {"antibodies", "corpus"},
    {"models"},
    {"messages"},
    {"scores"},
    {"certificates"},
    {"compression"},
    {"tasks"},
    {"report"},
    {"cli", "console", "api", "external_files", "starter"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

# Imports inside functions, each with what it saves. Nothing else may be imported late.
LATE = {
    ("api", ""): "`import tokenbounds` is instant; a function loads what it needs",
    ("cli", ""): "a command loads only what it needs, so that --help and `show` answer at once",
    ("certificates.evidence", "models.base"): "torch, for messages over a base alone",
    ("certificates.original", "models.base"): "torch, where predictions were compared with another model's alone",
    ("certificates.original", "scores.placement"): "torch, where predictions are compared again alone",
    ("tasks.run", "messages.decode"): "torch, for networks alone",
    ("messages.side_information", "models.base"): "torch, to find a base alone",
    ("models.base", "models.pretrained.loading"): "GGUF and transformers' loaders, for bases outside the study alone",
    ("models.weights", "models.pretrained.decoded"): "torch and GGUF, for values that must be decoded alone",
    ("console", "certificates.forecast"): "scipy and polars, for `tokenbounds plan` alone",
    ("scores.scoring", "messages.counted"): "numba, not to check or read scores",
    ("scores.scoring", "scores.cross_entropies"): "torch, not to check or read scores",
    ("scores.scoring", "scores.faithfulness"): "torch, not to check or read scores",
    ("scores.scoring", "scores.placement"): "torch, not to check or read scores",
    ("scores.scoring", "scores.neural"): "torch, not to check or read scores",
    ("scores.scoring", "scores.online"): "numba, not to check or read scores",
    ("messages.smoothing_head", "messages"): "numba's coder, not to read which weights a head names",
}


def modules(folder=LIBRARY):
    """Syntax trees by name of the module inside the library; the library's own `__init__` aside."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = ast.parse(path.read_text("utf-8"))
    return found


def imports(tree, names):
    """(imported module, whether inside a function) for every import of the library; those for types alone aside."""

    def visit(node, late):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tokenbounds."):
            module = node.module.removeprefix("tokenbounds.")
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield (inner if inner in names else module), late
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("tokenbounds."):
                    yield alias.name.removeprefix("tokenbounds."), late
        for child in ast.iter_child_nodes(node):
            yield from visit(child, late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from visit(tree, False)


TREES = modules()
EDGES = sorted({(name, *found) for name, tree in TREES.items() for found in imports(tree, TREES)})


def within(name, prefix):
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def upwards(edges):
    return {(name, other) for name, other, _ in edges if RANK[other.split(".")[0]] > RANK[name.split(".")[0]]}


def circle(edges):
    """A circle of modules that import each other, late imports included; empty if there is none."""
    graph = {}
    for name, other, _ in edges:
        graph.setdefault(name, set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_package_has_its_layer():
    assert {name.split(".")[0] for name in TREES} == set(RANK)


def test_imports_point_downwards():
    assert upwards(EDGES) == set()


def test_an_upward_import_is_noticed():
    tree = ast.parse("def f():\n    from tokenbounds.certificates.certify import certify_bound")
    assert upwards([("models.base", *found) for found in imports(tree, TREES)]) == {
        ("models.base", "certificates.certify")
    }


def test_no_modules_import_each_other():
    assert circle(EDGES) == []


def test_a_circle_is_noticed_even_if_an_import_is_late():
    assert circle([("a", "b", False), ("b", "c", True), ("c", "a", False)])


def test_late_imports_are_those_with_a_reason():
    late = [(name, other) for name, other, is_late in EDGES if is_late]
    unlisted = [pair for pair in late if not any(within(pair[0], a) and within(pair[1], b) for a, b in LATE)]
    assert unlisted == []


@pytest.mark.parametrize(("name", "other"), sorted(LATE))
def test_every_listed_late_import_is_still_there(name, other):
    assert any(is_late and within(a, name) and within(b, other) for a, b, is_late in EDGES)


def outside(tree):
    """Top-level packages outside the standard library that a module imports."""
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names


def test_bounds_are_mathematics_alone():
    for name, tree in TREES.items():
        if within(name, "bounds"):
            assert outside(tree) <= {"numpy", "scipy", "tokenbounds"}, name
    others = {other for name, other, _ in EDGES if within(name, "bounds") and not within(other, "bounds")}
    assert others == {"errors"}


def test_another_package_in_bounds_is_noticed():
    assert outside(ast.parse("import math\nimport polars.selectors\nfrom scipy import stats")) == {"polars", "scipy"}


def _loaded(statement):
    program = f"import sys\n{statement}\nprint(*sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "module",
    [
        "api",
        "certificates.verify",
        "cli",
        "compression.counted",
        "config.graph",
        "report.page",
        "scores.scoring",
        "tasks.run",
    ],
)
def test_what_answers_at_once_loads_neither_torch_nor_transformers(module):
    assert _loaded(f"import tokenbounds.{module}") == []


def test_loading_torch_is_noticed():
    assert "torch" in _loaded("import tokenbounds.certificates.verify, torch")
