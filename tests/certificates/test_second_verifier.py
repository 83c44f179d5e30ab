"""The second verifier by itself. That it agrees with the first, every test here shows that verifies (conftest)."""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import second_verifier
from json_certificates import certify_bound, write_certificate
from test_reference_certificates import ReferenceStudy
from tokenbounds.certificates.rows import pilots
from tokenbounds.config import BoundsSpec

pytestmark = pytest.mark.adversary
FILE = Path(second_verifier.__file__)
SPEC = BoundsSpec(
    top_k=(1,), alphas=(0.1, 0.3), lambdas=8, bounds=("azuma", "freedman", "betting", "documents_betting")
)


@pytest.fixture
def certified(study):
    path = study.root / "certificates" / "second.json"
    return path, certify_bound("c", "tiny", study.inputs, SPEC, path, model="m")


def test_it_needs_python_numpy_and_pyarrow_alone(certified):
    program = (
        f"import runpy, sys; sys.argv = ['v', {str(certified[0])!r}]\n"
        f"try: runpy.run_path({str(FILE)!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "assert not {'tokenbounds', 'torch', 'numba', 'pydantic', 'scipy', 'polars'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 rows" in done.stdout and "not checked by this verifier: that messages decode" in done.stdout


def test_it_is_short_enough_to_be_read():
    text = FILE.read_text()
    nodes = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
    ]
    first = [node.body[0] for node in nodes if ast.get_docstring(node)]
    words = {line for each in first for line in range(each.lineno, each.end_lineno + 1)}
    lines = enumerate(text.splitlines(), start=1)
    code = [number for number, line in lines if line.split("#")[0].strip() and number not in words]
    assert len(code) <= 755


def status(path, content, capsys):
    write_certificate(path, content)
    found = second_verifier.main([str(path)])
    return found, capsys.readouterr().out


def test_what_it_does_not_know_is_named_and_is_no_pass(certified, capsys):
    path, content = certified
    assert status(path, content, capsys)[0] == 0
    row = content["rows"][0]
    unknown = [
        content | {"colour": "red"},
        content | {"bounds": content["bounds"] | {"colour": "red"}},
        content | {"rows": [row | {"colour": "red"}, *content["rows"][1:]]},
    ]
    for forged in unknown:
        found, out = status(path, forged, capsys)
        assert found == 2 and "not checked by this verifier" in out and "colour" in out
    text = str(content)
    renamed = ast.literal_eval(text.replace("'freedman'", "'inverse'"))
    found, out = status(path, renamed, capsys)
    assert found == 2 and out.count("does not know: row bpd/inverse") == 1
    status(path, content, capsys)


def change(content, how):
    forged = ast.literal_eval(str(content))
    how(forged)
    return forged


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        (lambda c: c["rows"][0].update(value=c["rows"][0]["value"] - 1e-6), "value of row"),
        (lambda c: c["rows"][2].update({"lambda": c["rows"][2]["lambda"] * 1.001}), "lambda or a kappa of no grid"),
        (lambda c: c["rows"][2].update(alpha=0.2), "alpha of no grid"),
        (lambda c: c["ledger"]["rows"][2]["entries"].pop(), "lacks entries"),
        (lambda c: c["rows"].pop(), "other rows"),
        (lambda c: c.update(scored_tokens=1), "other scores"),
        (lambda c: c["message"].update(size_bits=8), "another size"),
        (lambda c: c["message"]["header"].update(coder="adaptive"), "another header"),
        (lambda c: c["plan"].update(seed=1), "of the plan"),
        (lambda c: c["blocks"].update(root="0" * 64), "another root"),
        (lambda c: c.update(delta=0.1), "another delta"),
        (lambda c: c["manifest"]["tokenizer"].update(identity="else"), "of its corpus"),
    ],
)
def test_forgeries_are_refused_in_one_line(certified, capsys, how, complaint):
    path, content = certified
    found, out = status(path, change(content, how), capsys)
    write_certificate(path, content)
    assert found == 1 and complaint in out and out.count("\n") == 1


def test_a_cell_that_the_first_draws_did_not_choose_is_found(sampled_study, monkeypatch, capsys):
    """Numbers, ledger and hashes are right; but the cell was chosen by something else, such as all draws."""
    path, spec = sampled_study.root / "certificates" / "pilot.json", replace(SPEC, bounds=SPEC.bounds[:3])
    honest = certify_bound("c", "tiny", sampled_study.inputs, spec, path, model="m")
    assert second_verifier.main([str(path)]) == 0
    guess = pilots._guess
    monkeypatch.setattr(pilots, "_guess", lambda *given: -guess(*given))
    for bound in spec.bounds:
        forged = certify_bound("c", "tiny", sampled_study.inputs, spec, path, model="m")
        pairs = zip(forged["rows"], honest["rows"], strict=True)
        rows = [row if row["bound"] == bound else other for row, other in pairs]
        capsys.readouterr()
        found, out = status(path, forged | {"rows": rows}, capsys)
        assert found == 1 and f"row {bound}: its cell is not what the first draws choose" in out


def test_the_draw_and_the_tokens_of_a_corpus_by_reference_are_made_again(tmp_path, capsys):
    study, path = ReferenceStudy(tmp_path / "results").build(), tmp_path / "results" / "certificates" / "c.json"
    content = certify_bound("c", "tiny", study.inputs, replace(SPEC, bounds=SPEC.bounds[:3]), path, model="m")
    assert second_verifier.main([str(path)]) == 0
    forgeries = {
        "tokens are sure": lambda c: c.update(tokens=int(1.01 * c["tokens"])),
        "drawn of the reference": lambda c: c["reference"].update(drawn=401),
        "delta of the reference": lambda c: c["reference"].update(delta="1/1000"),
        "value of row": lambda c: c["rows"][2].update(value=c["rows"][2]["value"] - 1e-4),
        "of its corpus": lambda c: c.pop("reference") and c.update(tokens=c["scored_tokens"]),
    }
    for complaint, how in forgeries.items():
        capsys.readouterr()
        found, out = status(path, change(content, how), capsys)
        assert found == 1 and complaint in out
    manifest = json.loads((study.inputs.corpus / "manifest.json").read_text())
    corpus = second_verifier.Corpus(study.inputs.corpus, manifest)
    check = partial(second_verifier.check_reference, content, study.inputs.corpus)
    assert check(manifest, corpus, Fraction("0.05")) == Fraction("0.0025")
    manifest["reference"]["seed"] += 1
    with pytest.raises(second_verifier.Refused, match="other documents than the seed draws"):
        check(manifest, corpus, Fraction("0.05"))
