#!/usr/bin/env bash
# A training on a Cloud TPU slice, from its creation to its end.
# Usage: launch/tpu_vm.sh [--dry-run] create|install|fetch|delete NAME
#        launch/tpu_vm.sh [--dry-run] run NAME --config=FILE --workdir=DIR [FLAGS]
#        launch/tpu_vm.sh [--dry-run] queue NAME COUNT --study=FILE --out=/share/DIR --storage=URL [FLAGS]
# queue asks for COUNT machines of one host each, which come when there is room and each work on a sweep.
# SHARE must hold this repository as bonescan/, with bash launch/setup.sh tpu,sweep done in it; it is
# mounted as /share. Afterwards: gcloud compute tpus queued-resources delete NAME --force. A request that
# failed, or whose machines were all preempted, stays until then.
# --dry-run prints the commands and runs none. DIR is on the shared disk, as share/runs/first, unless
# the slice is a single machine (TYPE up to 8 chips, such as v5litepod-8, which then must be set).
# Settings and their defaults, from the environment:
#   ZONE=us-west4-a  TYPE=v5litepod-16  VERSION=v2-alpha-tpuv5-lite  SPOT=1 (0: never preempted)
#   SHARE=           HOST:/PATH of an NFS disk (Filestore); all workers write one checkpoint there
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry_run=0
if [ "${1:-}" = --dry-run ]; then
  dry_run=1
  shift
fi
verb="${1:-}"
name="${2:-}"
if [[ ! "$verb" =~ ^(create|install|run|queue|fetch|delete)$ || -z "$name" ]]; then
  echo "usage: launch/tpu_vm.sh [--dry-run] create|install|run|queue|fetch|delete NAME [FLAGS]" >&2
  exit 2
fi
shift 2
zone=(--zone="${ZONE:-us-west4-a}")

say_or_do() {
  if [ "$dry_run" -eq 1 ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
tpu() { say_or_do gcloud compute tpus tpu-vm "$@"; }
# A slice is several machines, and each of them must run the same command.
on_all() { tpu ssh "$name" "${zone[@]}" --worker=all --command="$1"; }

# Each machine has a disk of its own beside the shared one; parts of a checkpoint would be everywhere.
check_workdir() {
  [[ "${TYPE:-v5litepod-16}" =~ -([0-9]+)$ && "${BASH_REMATCH[1]}" -le 8 ]] && return
  local flag before=""
  for flag in "$@"; do
    [ "$before" != --workdir ] || flag="--workdir=$flag"
    before="$flag"
    if [[ "$flag" == --workdir=* && ! "$flag" =~ ^--workdir=(/|(\./)?share/) ]]; then
      echo "tpu_vm.sh: $flag is on a disk of each machine alone, expected one below share/" >&2
      exit 2
    fi
  done
}

case "$verb" in
  create)
    spot=()
    # A preempted slice is gone: create, install and run again continues from the share.
    [ "${SPOT:-1}" = 0 ] || spot=(--spot)
    tpu create "$name" "${zone[@]}" --accelerator-type="${TYPE:-v5litepod-16}" \
      --version="${VERSION:-v2-alpha-tpuv5-lite}" "${spot[@]}"
    ;;
  install)
    # What is committed, and nothing else: a run can be traced to its code.
    say_or_do git archive --format=tar.gz --output=/tmp/bonescan.tar.gz HEAD
    tpu scp /tmp/bonescan.tar.gz "$name:" "${zone[@]}" --worker=all
    on_all "mkdir -p bonescan/share && tar -xzf bonescan.tar.gz -C bonescan"
    if [ -n "${SHARE:-}" ]; then
      on_all "sudo apt-get -qq install nfs-common && (mountpoint -q bonescan/share || sudo mount $SHARE bonescan/share)"
    fi
    on_all "bash bonescan/launch/setup.sh tpu"
    ;;
  run)
    check_workdir "$@"
    # auto: JAX asks the slice which worker this is. Ends with this terminal; start it in tmux.
    on_all "cd bonescan && .venv/bin/bonescan train --coordinator=auto $(printf '%q ' "$@")"
    ;;
  queue)
    count="${1:-}"
    if [[ ! "$count" =~ ^[1-9][0-9]*$ || -z "${SHARE:-}" ]]; then
      echo "tpu_vm.sh: expected queue NAME COUNT FLAGS, and SHARE=HOST:/PATH in the environment" >&2
      exit 2
    fi
    shift
    startup="$(mktemp)"
    trap 'rm -f "$startup"' EXIT
    cat >"$startup" <<END
#!/usr/bin/env bash
# Runs as root whenever the machine starts: a worker that was told to stop goes on then.
set -e
apt-get -qq install nfs-common
mkdir -p /share
mountpoint -q /share || mount $SHARE /share
cd /share/bonescan
exec .venv/bin/bonescan sweep$(printf ' %q' "$@")
END
    spot=()
    [ "${SPOT:-1}" = 0 ] || spot=(--spot)
    [ "$dry_run" -eq 0 ] || cat "$startup"
    say_or_do gcloud compute tpus queued-resources create "$name" "${zone[@]}" --node-count="$count" \
      --node-prefix="$name" --accelerator-type="${TYPE:-v5litepod-1}" \
      --runtime-version="${VERSION:-v2-alpha-tpuv5-lite}" --valid-until-duration=24h "${spot[@]}" \
      --metadata-from-file="startup-script=$startup"
    ;;
  fetch)
    say_or_do mkdir -p runs
    tpu scp --recurse "$name:bonescan/share/runs" "runs/$name" "${zone[@]}" --worker=0
    ;;
  delete)
    tpu delete "$name" "${zone[@]}" --quiet
    ;;
esac
