#!/usr/bin/env bash
# The whole job on this machine: simulate, prepare, train, evaluate, predict, report.
# Usage: launch/local.sh [WORKDIR]   a second call continues or repeats what is not done.
# The last line on standard output is JSON; progress goes to standard error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
workdir="${1:-runs/phantom}"
config=configs/phantom.py

bash launch/setup.sh
bonescan() { .venv/bin/bonescan "$@"; }
mkdir -p data "$workdir"

# Patients of seed 0 are for training and testing, a few of seed 1 are for looking at.
[ -d data/phantom_scans ] || bonescan phantom --out=data/phantom_scans --patients=600 --seed=0
[ -d data/phantom_unseen ] || bonescan phantom --out=data/phantom_unseen --patients=3 --seed=1
bonescan prepare --config="$config" --source=data/phantom_scans --data_dir=data
bonescan train --config="$config" --workdir="$workdir"
bonescan evaluate --workdir="$workdir"
bonescan predict --workdir="$workdir" --input=data/phantom_unseen
bonescan report --workdir="$workdir"
