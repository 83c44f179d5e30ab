#!/bin/sh
# Removes the lock that a killed Snakemake left in this folder, so that `make run` can go on. The lock stays if a
# Snakemake, or one of its jobs, still runs here, and where that cannot be determined. Arguments are Snakemake's, e.g.
# --configfile FILE.
set -eu

[ -n "$(ls .snakemake/locks 2>/dev/null)" ] || exit 0
command -v pgrep >/dev/null || exit 0

for pid in $(pgrep -f '[s]nakemake' || true); do
    # Another user's process, or a system without /proc: it may be here.
    folder=$(readlink "/proc/$pid/cwd" 2>/dev/null || pwd -P)
    if [ "$folder" = "$(pwd -P)" ] && kill -0 "$pid" 2>/dev/null; then
        echo "process $pid of Snakemake still runs in this folder; wait for it, or end it, and run again" >&2
        exit 1
    fi
done

echo "removing the lock of a killed run"
snakemake --unlock "$@" >/dev/null 2>&1 || echo "the lock could not be removed; snakemake --unlock says why" >&2
