"""Functions that docs/bounds.md says compute a bound are there, in modules of these names."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"\*Functions?:\*(.*?)(?=\*\w+s?:\*|\n\n|\Z)", re.DOTALL)


def defined(path):
    """Every class and function of a module, its methods and fields included."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "name")]
    return {node.name for node in nodes}


def unknown_names(text, root):
    """Names behind *Functions:* that their module does not define; one without a module is of the last one named."""
    modules = {}
    for path in root.rglob("*.py"):
        modules.setdefault(path.stem, set()).update(defined(path))
    for found in NAMED.finditer(text):
        module = ""
        for name in re.findall(r"`([\w.]+)`", found[1]):
            parts = name.split(".")
            known = [place for place, part in enumerate(parts[:-1]) if part in modules]
            if known:
                module, parts = parts[known[-1]], parts[known[-1] + 1 :]
            if not set(parts) <= modules.get(module, set()):
                yield f"{module}: {name}"


def test_functions_that_the_mathematics_names_exist():
    assert list(unknown_names((ROOT / "docs/bounds.md").read_text(), ROOT / "workflow/tokenbounds")) == []


def test_a_function_that_is_gone_is_noticed():
    text = "*Functions:* `azuma.bound_azuma`, `bound_azuma_predictable`, `azuma.bound_gone`, `gone`. *Source:* `x`."
    found = list(unknown_names(text, ROOT / "workflow/tokenbounds"))
    assert found == ["azuma: azuma.bound_gone", "azuma: gone"]
