#!/usr/bin/env bash
# Trains in two tasks under launch/slurm.sbatch in a Slurm of one node, signalled and requeued.
# By hand, as root, in the repository, after apt-get install slurm-wlm munge:
#   bash tests/faults/slurm.sh DIR
# Three jobs: one that nothing disturbs; one that gets SIGTERM in the middle, and when it is back
# from the queue is requeued by an order to Slurm; one that is cancelled and must stay so.
# The last line is JSON: whether the second ended with the weights of the first, bit for bit.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p "$1"
dir="$(cd "$1" && pwd)"
source tests/faults/one_node_slurm.sh

# Prints "--config.NAME=VALUE" for each setting of the small run that the other scripts use.
settings() {
  .venv/bin/python - "$dir" <<'END'
import sys
from pathlib import Path
from tests.faults.processes import SETTINGS, prepare_data
data = prepare_data(Path(sys.argv[1]))
for name, value in (SETTINGS | {"data.dir": data}).items():
    print(f"--config.{name}={value}")
END
}
mapfile -t flags < <(settings)

submit() { # WORKDIR
  mkdir -p "$1"
  sbatch --parsable --gpus-per-node=0 --ntasks-per-node=2 --cpus-per-task=1 --time=60 \
    --output="$1/slurm.log" launch/slurm.sbatch --config=configs/phantom.py --workdir="$1" "${flags[@]}"
}
wait_for_step() { # WORKDIR STEP
  until grep -q "\"step\": $2," "$1/metrics.jsonl" 2>/dev/null; do sleep 0.1; done
}
whole="$(submit "$dir/whole")"
wait_for_end "$whole"
say "undisturbed: $(state "$whole")"

moved="$(submit "$dir/moved")"
wait_for_step "$dir/moved" 12
scancel --signal=TERM "$moved"
say "SIGTERM to the tasks after step 12"
wait_for_step "$dir/moved" 25
scontrol requeue "$moved"
say "requeued by Slurm after step 25"
wait_for_end "$moved"
restarts="$(scontrol --oneliner show job "$moved" | sed 's/.* Restarts=\([0-9]*\).*/\1/')"
say "signalled and requeued: $(state "$moved"), started again $restarts times"

cancelled="$(submit "$dir/cancelled")"
wait_for_step "$dir/cancelled" 12
scancel "$cancelled"
wait_for_end "$cancelled"
sleep 15
say "cancelled: $(state "$cancelled")"

.venv/bin/python - "$dir" "$(state "$moved")" "$restarts" "$(state "$cancelled")" <<'END'
import json
import sys
from pathlib import Path
from tests.faults.processes import bit_equal
place, state, restarts, cancelled = Path(sys.argv[1]), *sys.argv[2:]
equal = bit_equal(place / "whole", place / "moved")
result = {"bit_equal": equal, "state": state, "restarts": int(restarts), "cancelled": cancelled}
print(json.dumps(result))
sys.exit(not (equal and state == "COMPLETED" and restarts == "2" and cancelled == "CANCELLED"))
END
