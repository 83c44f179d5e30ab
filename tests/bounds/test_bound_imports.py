"""What the package of bounds may load: whoever checks a certificate's numbers should not need to load torch."""

import subprocess
import sys


def _loaded(statement):
    program = f"import sys\n{statement}\nprint(*sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_verification_loads_neither_torch_nor_transformers():
    assert _loaded("import tokenbounds.certificates.verify") == []


def test_loading_torch_is_noticed():
    assert "torch" in _loaded("import tokenbounds.certificates.verify, torch")
