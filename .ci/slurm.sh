#!/usr/bin/env bash
# Start a SLURM cluster of one node on this machine, as root on Debian: .ci/slurm.sh FOLDER
# Prints the variables of its clients; `.ci/slurm.sh FOLDER stop` ends it.
set -euo pipefail
folder=$1
if [ "${2:-}" = stop ]; then
  for daemon in slurmctld slurmd munged; do
    [ ! -f "$folder/$daemon.pid" ] || kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
  done
  exit
fi
if ! { command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null; then
  for attempt in 1 2 3; do
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y slurm-wlm munge; } >&2 && break
    [ "$attempt" -lt 3 ]
  done
fi
mkdir -p "$folder/state" "$folder/spool"
chmod 755 "$folder"
head -c 1024 /dev/urandom > "$folder/munge.key"
chmod 600 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" >&2
host=$(hostname -s)
mapfile -t ports < <(shuf --input-range=20000-30000 --head-count=2)
# Nothing of this machine is required: no cgroups, no accounts, no database.
cat > "$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,requeue_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge=3600
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=1000 State=UNKNOWN
PartitionName=normal Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 OverSubscribe=NO GraceTime=20
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 OverSubscribe=NO PreemptMode=off
CONF
export SLURM_CONF="$folder/slurm.conf"
slurmctld -c >&2
slurmd -c >&2
for _ in $(seq 60); do
  if [ "$(sinfo --noheader --partition=normal --format=%t 2>/dev/null)" = idle ]; then
    echo "export SLURM_CONF=$SLURM_CONF"
    exit
  fi
  sleep 1
done
tail -n 20 "$folder"/*.log >&2
echo "SLURM did not start" >&2
exit 1
