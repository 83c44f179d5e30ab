#!/usr/bin/env bash
# Bring up a real SLURM of one node on this machine, for tests: munged, slurmctld, slurmd, mariadbd and slurmdbd, without
# systemd, reachable from this machine only. Needs Debian or Ubuntu and root; installs what is missing with apt-get and
# replaces /etc/slurm/*.conf: do not run it on a machine that belongs to a cluster. May be called again at any time.
#
#   slurm-up.sh                 # with accounting (sacct, sacctmgr)
#   SLURM_DBD=0 slurm-up.sh     # without accounting: faster, squeue is the only source of a job's state
#
# Knobs (environment):
#   SLURM_DBD=1|0      SLURM_CPUS (default min(2, nproc))   SLURM_MEM_MB (20000)   SLURM_GPUS (2, fake)
#   SLURM_CGROUP=0|1   (1: cgroup v1 limits instead of polling; needs /sys/fs/cgroup/{memory,freezer,..})
#   SLURM_STATE (all logs, pids, databases)   SLURM_ACCOUNT (lab)   SLURM_USERS (root)   SLURM_DBPORT (13306)
set -euo pipefail
STATE=${SLURM_STATE:-/tmp/slurm-state}
DBD=${SLURM_DBD:-1}
CGROUP=${SLURM_CGROUP:-0}
CPUS=${SLURM_CPUS:-$(n=$(nproc); echo $((n < 2 ? n : 2)))}
MEM=${SLURM_MEM_MB:-20000}
GPUS=${SLURM_GPUS:-2}
ACCOUNT=${SLURM_ACCOUNT:-lab}
CLUSTER=trial
NODE=node1                                   # slurm's name of the node
HOST=$(hostname -s 2>/dev/null || hostname)  # what the kernel calls this machine
DBPORT=${SLURM_DBPORT:-13306}
[ "$(id -u)" = 0 ] || { echo "slurm-up: must run as root" >&2; exit 2; }
command -v apt-get >/dev/null || { echo "slurm-up: needs apt-get (Debian or Ubuntu)" >&2; exit 2; }
if [ -e /etc/slurm/slurm.conf ] && ! grep -q '^# written by slurm-up.sh' /etc/slurm/slurm.conf; then
  echo "slurm-up: /etc/slurm/slurm.conf is not from this script; this machine may belong to a cluster. Stopping." >&2
  exit 2
fi
T0=$(date +%s.%N)
say() { printf 'slurm-up [%5.1fs] %s\n' "$(echo "$(date +%s.%N) $T0" | awk '{print $1-$2}')" "$*"; }

# is PID NAME: true when PID is a live process called NAME (a zombie waiting for its parent is not)
is() {
  [ -n "$1" ] && [ "$(cat /proc/"$1"/comm 2>/dev/null)" = "$2" ] &&
    ! grep -q '^State:[[:space:]]*Z' /proc/"$1"/status 2>/dev/null
}
alive() { is "$(cat "$1" 2>/dev/null)" "$2"; }   # PIDFILE NAME
# wait_for SECONDS WHAT CMD...: poll CMD until it succeeds
wait_for() {
  local n=$(( $1 * 5 )) what=$2; shift 2
  for ((i = 0; i < n; i++)); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
  echo "slurm-up: gave up waiting for $what" >&2
  tail -n 20 "$STATE"/log/*.log >&2 2>/dev/null || true
  return 1
}

# ---- 1. packages -----------------------------------------------------------------------------
want=(slurmctld slurmd slurm-client munge)
[ "$DBD" = 1 ] && want+=(slurmdbd mariadb-server-core mariadb-client-core)
missing=()
for p in "${want[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "installing: ${missing[*]}"
  if [ ! -e /usr/sbin/policy-rc.d ]; then    # keeps packages from starting daemons while they are installed
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt_in() { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"; }
  mkdir -p "$STATE/log"
  apt_in >"$STATE/log/apt.log" 2>&1 ||
    { apt-get update -q >>"$STATE/log/apt.log" 2>&1; apt_in >>"$STATE/log/apt.log" 2>&1; } ||
    { tail -n 20 "$STATE/log/apt.log" >&2; exit 1; }
fi

# ---- 2. folders, name resolution -------------------------------------------------------------
# slurmctld runs as user slurm: every parent of its folders must be searchable (no 0700 parents)
mkdir -p "$STATE"/{log,run,ctld,spool,dev}
chmod 755 "$STATE" "$STATE"/{log,run,ctld,spool,dev}
chown slurm:slurm "$STATE"/{log,run,ctld}
if ! getent hosts "$HOST" | grep -q '^127\.\|^::1'; then   # first match wins, so put ours on top
  h=$(cat /etc/hosts); printf '127.0.0.1 %s\n%s\n' "$HOST" "$h" > /etc/hosts
fi
for ((i = 0; i < GPUS; i++)); do             # fake GPUs: /dev/null clones (File= must exist)
  [ -e "$STATE/dev/fakegpu$i" ] || mknod -m 666 "$STATE/dev/fakegpu$i" c 1 3
done

# ---- 3. configuration ------------------------------------------------------------------------
mkdir -p /etc/slurm
if [ "$DBD" = 1 ]; then
  acct="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStorageEnforce=associations
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment"
else
  acct="AccountingStorageType=accounting_storage/none"
fi
if [ "$CGROUP" = 1 ]; then
  limits="ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup
JobAcctGatherFrequency=task=5"
  printf '%s\n' CgroupPlugin=cgroup/v1 CgroupAutomount=no ConstrainCores=no ConstrainRAMSpace=yes \
    ConstrainSwapSpace=no ConstrainDevices=no > /etc/slurm/cgroup.conf
else
  limits="ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
# kill a step whose sampled RSS exceeds --mem (there is no cgroup to do it)
JobAcctGatherParams=OverMemoryKill"
fi
gres=""; [ "$GPUS" -gt 0 ] && gres="Gres=gpu:$GPUS"
new=$(cat <<CONF
# written by slurm-up.sh
ClusterName=$CLUSTER
SlurmctldHost=$HOST(127.0.0.1)
# loopback only: slurmctld (NoCtldInAddrAny) and slurmd/srun (NoInAddrAny) bind to the address
# their name resolves to, not to 0.0.0.0
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=6817
SlurmdPort=6818
AuthType=auth/munge
SlurmUser=slurm
SlurmdUser=root
StateSaveLocation=$STATE/ctld
SlurmdSpoolDir=$STATE/spool
SlurmctldPidFile=$STATE/run/slurmctld.pid
SlurmdPidFile=$STATE/run/slurmd.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdLogFile=$STATE/log/slurmd.log
$limits
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=5,sched_interval=5
# let CPUs/RealMemory below differ from what slurmd detects
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=0
KillWait=5
MinJobAge=3600
MaxArraySize=1001
GresTypes=gpu
DefMemPerCPU=1000
$acct
NodeName=$NODE NodeHostname=$HOST NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$MEM $gres State=UNKNOWN
PartitionName=cpu Nodes=$NODE Default=YES MaxTime=24:00:00 DefaultTime=00:30:00 State=UP
PartitionName=gpu Nodes=$NODE Default=NO  MaxTime=24:00:00 DefaultTime=00:30:00 State=UP
CONF
)
changed=0
if [ "$new" != "$(cat /etc/slurm/slurm.conf 2>/dev/null)" ]; then
  printf '%s\n' "$new" > /etc/slurm/slurm.conf; changed=1
fi
if [ "$GPUS" -gt 0 ]; then
  echo "Name=gpu File=$STATE/dev/fakegpu[0-$((GPUS - 1))]" > /etc/slurm/gres.conf
else
  : > /etc/slurm/gres.conf
fi
if [ "$DBD" = 1 ]; then
  cat > /etc/slurm/slurmdbd.conf <<CONF
AuthType=auth/munge
DbdHost=$HOST
DbdAddr=127.0.0.1
DbdPort=6819
SlurmUser=slurm
PidFile=$STATE/run/slurmdbd.pid
LogFile=$STATE/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DBPORT
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CommunicationParameters=NoInAddrAny
CONF
  chown slurm:slurm /etc/slurm/slurmdbd.conf; chmod 600 /etc/slurm/slurmdbd.conf
fi

# ---- 4. munged -------------------------------------------------------------------------------
[ -s /etc/munge/munge.key ] || { runuser -u munge -- /usr/sbin/mungekey --create; }
chown munge:munge /etc/munge /etc/munge/munge.key; chmod 700 /etc/munge; chmod 400 /etc/munge/munge.key
install -d -o munge -g munge -m 755 /run/munge
install -d -o munge -g munge -m 711 /var/lib/munge
install -d -o munge -g munge -m 700 /var/log/munge
if ! alive /run/munge/munged.pid munged; then
  runuser -u munge -- /usr/sbin/munged
  wait_for 10 munged sh -c 'munge -n | unmunge'
  say "munged up (pid $(cat /run/munge/munged.pid))"
fi

# ---- 5. accounting (optional) ----------------------------------------------------------------
if [ "$DBD" = 1 ]; then
  if ! alive "$STATE/run/mariadbd.pid" mariadbd; then
    if [ ! -d "$STATE/mysql/mysql" ]; then
      install -d -o slurm -g slurm -m 700 "$STATE/mysql"
      mariadb-install-db --no-defaults --user=slurm --datadir="$STATE/mysql" --auth-root-authentication-method=normal \
        --skip-test-db >"$STATE/log/mariadb-install.log" 2>&1
    fi
    setsid /usr/sbin/mariadbd --no-defaults --user=slurm --datadir="$STATE/mysql" \
      --bind-address=127.0.0.1 --port="$DBPORT" --socket="$STATE/run/mysql.sock" \
      --pid-file="$STATE/run/mariadbd.pid" --log-error="$STATE/log/mariadbd.log" \
      --innodb-buffer-pool-size=128M --innodb-lock-wait-timeout=900 </dev/null >/dev/null 2>&1 &
    wait_for 60 mariadbd mariadb --no-defaults -uroot -S "$STATE/run/mysql.sock" -e 'select 1'
    say "mariadbd up (pid $(cat "$STATE/run/mariadbd.pid"))"
  fi
  mariadb --no-defaults -uroot -S "$STATE/run/mysql.sock" -e "
    CREATE DATABASE IF NOT EXISTS slurm_acct_db;
    CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
    CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY 'slurm';
    GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
    GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';"
  if ! alive "$STATE/run/slurmdbd.pid" slurmdbd; then
    /usr/sbin/slurmdbd
    wait_for 60 slurmdbd sacctmgr -n list cluster
    say "slurmdbd up (pid $(cat "$STATE/run/slurmdbd.pid"))"
  fi
  [ -n "$(sacctmgr -nP list cluster format=cluster names=$CLUSTER)" ] || sacctmgr -iQ add cluster $CLUSTER >/dev/null
  [ -n "$(sacctmgr -nP list account names="$ACCOUNT" format=account)" ] ||
    sacctmgr -iQ add account "$ACCOUNT" cluster=$CLUSTER description=trial organization=trial >/dev/null
  for u in ${SLURM_USERS:-root}; do          # only these users may submit (Enforce=associations)
    [ -n "$(sacctmgr -nP list assoc user="$u" account="$ACCOUNT" format=user)" ] ||
      sacctmgr -iQ add user "$u" account="$ACCOUNT" cluster=$CLUSTER >/dev/null
    [ "$(sacctmgr -nP list user "$u" format=defaultaccount)" = "$ACCOUNT" ] ||
      sacctmgr -iQ modify user "$u" set DefaultAccount="$ACCOUNT" >/dev/null
  done
fi

# ---- 6. slurmctld, slurmd --------------------------------------------------------------------
stop_pid() {  # PIDFILE NAME
  alive "$1" "$2" || return 0
  local p; p=$(cat "$1"); kill -TERM "$p"
  for ((i = 0; i < 150; i++)); do is "$p" "$2" || return 0; sleep 0.2; done
  echo "slurm-up: $2 ($p) does not stop" >&2; return 1
}
if [ $changed = 1 ]; then                    # many settings need a restart, not `scontrol reconfigure`;
  stop_pid "$STATE/run/slurmd.pid" slurmd    # running jobs survive it (slurmstepd is on its own)
  stop_pid "$STATE/run/slurmctld.pid" slurmctld
fi
if ! alive "$STATE/run/slurmctld.pid" slurmctld; then
  /usr/sbin/slurmctld
  wait_for 30 slurmctld scontrol ping
  say "slurmctld up (pid $(cat "$STATE/run/slurmctld.pid"))"
fi
if ! alive "$STATE/run/slurmd.pid" slurmd; then
  /usr/sbin/slurmd
  wait_for 10 slurmd alive "$STATE/run/slurmd.pid" slurmd
  say "slurmd up (pid $(cat "$STATE/run/slurmd.pid"))"
fi

# ---- 7. wait until the node takes jobs -------------------------------------------------------
node_ready() {
  local s; s=$(sinfo -h -n $NODE -o %T | head -n 1)
  case "$s" in
    idle|mixed|allocated|completing) return 0 ;;
    down*|drain*) scontrol update nodename=$NODE state=resume 2>/dev/null || true; return 1 ;;
    *) return 1 ;;
  esac
}
wait_for 60 "node $NODE to become idle" node_ready
say "ready"
sinfo -o '%P %a %D %t %c %m %G'
