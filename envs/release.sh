#!/usr/bin/env bash
# Build the source distribution and the wheel of the last commit into dist/, and try the wheel in a fresh environment:
# version, a starter study, and a certificate of a tiny model.
#
#   envs/release.sh              (or: make release)
#
# Publishing is up to people: `twine upload dist/*`, and a tag v<version>.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
die() {
  echo "release: $*" >&2
  exit 1
}

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' workflow/tokenbounds/__init__.py)
grep -q "^version: $version$" CITATION.cff || die "CITATION.cff is not about version $version. State it there."
grep -Eq "^## $version \([0-9]{4}-[0-9]{2}-[0-9]{2}\)$" CHANGELOG.md ||
  die "CHANGELOG.md has no heading '## $version (date)'. Write what is new."
[ -z "$(git status --porcelain)" ] || die "there are changes that are not committed. Commit or remove them."

echo "release: building $version"
mkdir "$work/source"
git archive HEAD | tar -x -C "$work/source"
"$PYTHON" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet build==1.6.1 twine==6.2.0
rm -rf dist
"$work/tools/bin/python" -m build --outdir dist "$work/source" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "no build"; }
"$work/tools/bin/twine" check --strict dist/*

echo "release: installing the wheel with the lock's packages into a fresh environment (minutes)"
"$PYTHON" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet -r envs/requirements.lock
"$work/venv/bin/pip" install --quiet --no-deps dist/*.whl
"$work/venv/bin/pip" check
envs/try_installed.sh "$work/venv/bin" "$version"
ls -l dist
