#!/usr/bin/env bash
# Write the lock files: install what pyproject.toml asks for into a fresh environment, and list what was installed.
#
#   envs/lock.sh                 (or: make lock)
#
# requirements.lock      what `make run` needs: the dependencies with the extras gguf and slurm
# requirements-dev.lock  what `make test`, `make check` and `make docs` need on top: the extras dev and docs
# requirements-antibodies.lock  the extra antibodies on top of requirements.lock; optional, because of its licences
#
# The CPU and the CUDA build of torch carry the same version, so one pin serves both; the CUDA libraries that torch
# asks for by itself are left out, because a machine without a GPU may not have them.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-2.13.0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

frozen() { # the environment's packages, one `name==version` per line
  # Setuptools is one of them: torch needs it, and environments of uv and of Python 3.12 have none.
  "$work/venv/bin/pip" freeze --all --exclude pip --exclude wheel |
    sed -e 's/+cpu$//' | grep -Eiv '^(nvidia-|cuda-|triton==)' | sort -f
}

stated() { # EXTRA...: what pyproject.toml asks for, with these extras
  "$PYTHON" - "$@" <<'END'
import sys, tomllib
with open("pyproject.toml", "rb") as stream:
    project = tomllib.load(stream)["project"]
print(*project["dependencies"], *(one for extra in sys.argv[1:] for one in project["optional-dependencies"][extra]), sep="\n")
END
}

"$PYTHON" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==$TORCH"
stated gguf slurm >"$work/stated"
"$work/venv/bin/pip" install --quiet -r "$work/stated"
frozen >"$work/run"
stated dev docs >"$work/stated"
"$work/venv/bin/pip" install --quiet -r "$work/stated"
frozen >"$work/dev"
stated antibodies >"$work/stated"
"$work/venv/bin/pip" install --quiet -r "$work/stated"
frozen >"$work/antibodies"

changed=$(comm -23 <(sort "$work/run") <(sort "$work/dev"))
[ -z "$changed" ] || {
  echo "lock: the extras dev and docs change versions of the run environment: $changed" >&2
  exit 1
}
{
  echo "# Written by envs/lock.sh from pyproject.toml; do not edit."
  cat "$work/run"
} >envs/requirements.lock
{
  echo "# Written by envs/lock.sh from pyproject.toml; do not edit."
  echo "-r requirements.lock"
  comm -13 <(sort "$work/run") <(sort "$work/dev") | sort -f
} >envs/requirements-dev.lock
{
  echo "# Written by envs/lock.sh from pyproject.toml; do not edit."
  echo "-r requirements.lock"
  comm -13 <(sort "$work/dev") <(sort "$work/antibodies") | sort -f
} >envs/requirements-antibodies.lock
wc -l envs/requirements*.lock
