#!/usr/bin/env bash
# Bring up a SLURM on this machine, run tests/slurm through it, and stop it again, whatever happens.
set -euo pipefail
cd "$(dirname "$0")/../.."
VENV=${VENV:-.venv}
export SLURM_STATE=${SLURM_STATE:-/tmp/tokenbounds-slurm}
[ "$(id -u)" = 0 ] || {
  echo "slurm-test: needs root to install and start SLURM" >&2
  exit 2
}

trap 'tests/slurm/slurm-down.sh' EXIT
trap 'exit 130' INT TERM
tests/slurm/slurm-up.sh
PATH="$(realpath "$VENV")/bin:$PATH" "$VENV/bin/python" -m pytest -m slurm tests/slurm "$@"
