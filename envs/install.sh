#!/usr/bin/env bash
# Create .venv and install the locked packages, or do nothing if that has already been done.
#
#   envs/install.sh run      what the workflow needs
#   envs/install.sh dev      that and the tools of the tests, the checks and the documentation
#   envs/install.sh antibodies   that and the extra antibodies: numbering and demo sequences
#
# PYTHON chooses the interpreter (default: python3); VENV the folder (default: .venv).
set -euo pipefail
cd "$(dirname "$0")/.."
KIND=${1:?usage: envs/install.sh run|dev|antibodies}
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
case $KIND in
run) locks=(envs/requirements.lock) ;;
dev) locks=(envs/requirements.lock envs/requirements-dev.lock) ;;
antibodies) locks=(envs/requirements.lock envs/requirements-antibodies.lock) ;;
*)
  echo "install: '$KIND' is neither run, dev nor antibodies" >&2
  exit 2
  ;;
esac
die() {
  echo "install: $*" >&2
  exit 1
}

command -v "$PYTHON" >/dev/null || die "there is no '$PYTHON'. Install Python 3.11 or newer, or set PYTHON=/path/to/python3."
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "$("$PYTHON" --version 2>&1) is too old. Install Python 3.11 or newer, or set PYTHON=/path/to/python3."

digest() { # of stdin; macOS has shasum
  { sha256sum 2>/dev/null || shasum -a 256; } | cut -d ' ' -f 1
}

stamp="$VENV/installed-$KIND"
wanted=$(cat "${locks[@]}" pyproject.toml | digest)
[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0

if [ ! -x "$VENV/bin/python" ]; then
  echo "install: creating $VENV with $("$PYTHON" --version)"
  "$PYTHON" -m venv "$VENV" ||
    die "cannot create $VENV. On Debian and Ubuntu: apt-get install python3-venv. Or set PYTHON=/path/to/python3."
fi
lock=${locks[${#locks[@]} - 1]} # the Bash of macOS knows no index -1
echo "install: installing $lock into $VENV (minutes the first time)"
"$VENV/bin/python" -m pip install --disable-pip-version-check --quiet -r "$lock"
"$VENV/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --editable .
echo "$wanted" >"$stamp"
[ "$KIND" = run ] || cat envs/requirements.lock pyproject.toml | digest >"$VENV/installed-run"
