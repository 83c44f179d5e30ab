#!/usr/bin/env bash
# Stop what slurm-up.sh started: its jobs, then its daemons, by process id (the name behind each id is checked first).
set -uo pipefail
STATE=${SLURM_STATE:-/tmp/slurm-state}
is() {
  [ -n "$1" ] && [ "$(cat /proc/"$1"/comm 2>/dev/null)" = "$2" ] &&
    ! grep -q '^State:[[:space:]]*Z' /proc/"$1"/status 2>/dev/null
}
stop() {  # PIDFILE NAME SECONDS
  local p; p=$(cat "$1" 2>/dev/null) || return 0
  is "$p" "$2" || { rm -f "$1"; return 0; }
  kill -TERM "$p" 2>/dev/null
  for ((i = 0; i < $3 * 5; i++)); do is "$p" "$2" || break; sleep 0.2; done
  if is "$p" "$2"; then echo "slurm-down: $2 ($p) ignored TERM, sending KILL"; kill -KILL "$p"; fi
  rm -f "$1"; echo "slurm-down: stopped $2 ($p)"
}
# jobs first: slurmstepd processes outlive slurmd
if timeout 10 scontrol ping >/dev/null 2>&1; then
  ids=$(squeue -h -o %A | sort -u)
  [ -z "$ids" ] || scancel $ids
  for ((i = 0; i < 100; i++)); do [ -z "$(squeue -h -o %A 2>/dev/null)" ] && break; sleep 0.2; done
fi
stop "$STATE/run/slurmd.pid" slurmd 15
stop "$STATE/run/slurmctld.pid" slurmctld 30
stop "$STATE/run/slurmdbd.pid" slurmdbd 30
stop "$STATE/run/mariadbd.pid" mariadbd 60
stop /run/munge/munged.pid munged 10
# empty cgroups left by SLURM_CGROUP=1 (rmdir removes nothing that still has processes)
for d in /sys/fs/cgroup/*/slurm_node1; do [ -d "$d" ] && find "$d" -depth -type d -exec rmdir {} + 2>/dev/null; done
exit 0
