"""All speed and memory benchmarks in turn: `python -m benchmarks`, or `python -m benchmarks scoring coding`.

Every figure is a ratio measured within one run, because absolute times depend on the machine and its other users.
The statistical benchmark (`bound_coverage`) and the fuzzer (`fuzz_messages`) take longer and run only if named.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEFAULT = ("scoring", "coding", "tokenization", "certification", "quantizers")


def main(names: list[str]) -> int:
    folder = Path(__file__).parent
    known = {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    failures = 0
    for name in names or DEFAULT:
        print(f"=== {name}", flush=True)
        failures += subprocess.run([sys.executable, str(known[name])], check=False).returncode != 0
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
