#!/usr/bin/env bash
# A Slurm of one node on this machine, for the scripts beside it, which source this with `dir` set: as root,
# after apt-get install slurm-wlm munge. It ends with the script.
# shellcheck disable=SC2154  # dir
host="$(hostname -s)"
mkdir -p "$dir/state" "$dir/spool"

# What Slurm needs where there are no cgroups to hold tasks with.
cat >"$dir/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
# The second part keeps a requeued job from waiting two minutes before it may start again.
AuthInfo=cred_expire=10
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# More processors than the machine may have: tasks take turns.
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
# As long as a scheduler usually waits between SIGTERM and SIGKILL; this machine may be slow.
KillWait=120
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF="$dir/slurm.conf" JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR="$dir/cache"

stop() {
  for daemon in slurmd slurmctld; do
    [ ! -f "$dir/$daemon.pid" ] || kill "$(cat "$dir/$daemon.pid")" || true
  done
}
trap stop EXIT
mkdir -p /run/munge && chown munge: /run/munge
[ -S /run/munge/munge.socket.2 ] || runuser -u munge -- /usr/sbin/munged
slurmctld
slurmd

state() { scontrol --oneliner show job "$1" | sed 's/.* JobState=\([A-Z_]*\).*/\1/'; }
wait_for_end() { # JOB
  until [[ "$(state "$1")" =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)$ ]]; do sleep 1; done
}
say() { echo "$(date +%T) $*" >&2; }
