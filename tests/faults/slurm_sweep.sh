#!/usr/bin/env bash
# A study of 12 trials by an array of 4 workers under launch/sweep.sbatch in a Slurm of one node: one worker
# is told to stop by Slurm and requeues itself, one is requeued by an order, one is cancelled.
# By hand, as root, in the repository, after apt-get install slurm-wlm munge:
#   bash tests/faults/slurm_sweep.sh DIR
# The last line is JSON: whether all trials ended once and as those of one worker alone, bit for bit, and
# how often each task of the array was started again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p "$1"
dir="$(cd "$1" && pwd)"
source tests/faults/one_node_slurm.sh
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

.venv/bin/python - "$dir" <<'END'
import sys
from pathlib import Path
from tests.faults.processes import prepare_data
from tests.faults.sweep import write_study
prepare_data(Path(sys.argv[1]))
write_study(Path(sys.argv[1]) / "twelve.py", 12)
END
flags=(--study="$dir/twelve.py" --config.data.dir="$dir/data")
.venv/bin/bonescan sweep "${flags[@]}" --out="$dir/alone" >"$dir/alone.txt" 2>&1
say "alone: done"

array="$(sbatch --parsable --array=0-3 --gpus-per-task=0 --cpus-per-task=1 --time=60 --oversubscribe \
  --output="$dir/worker-%a.log" launch/sweep.sbatch "${flags[@]}" --out="$dir/many")"
begun() { grep -c "^sweep: trial .* begins" "$dir/worker-$1.log" 2>/dev/null || [ -e "$dir/worker-$1.log" ] || echo 0; }
# Its second trial, and then some seconds: in the middle of it.
wait_for_second() { until [ "$(begun "$1")" -ge 2 ]; do sleep 0.2; done; sleep 4; }

wait_for_second 0
scancel --signal=TERM "${array}_0"
say "task 0: SIGTERM"
wait_for_second 1
scontrol requeue "${array}_1"
say "task 1: requeued"
wait_for_second 2
scancel "${array}_2"
say "task 2: cancelled"
while squeue --noheader --jobs "$array" | grep -q .; do sleep 1; done
say "the queue is empty"

restarts=""
for task in 0 1 2 3; do
  restarts+="$(scontrol --oneliner show job "${array}_$task" | sed 's/.* Restarts=\([0-9]*\).*/\1/') "
  say "task $task: $(state "${array}_$task")"
done
.venv/bin/python - "$dir" "$restarts" <<'END'
import json
import sys
from pathlib import Path
from tests.faults.sweep import compare, read_trials
place = Path(sys.argv[1])
alone, many = (read_trials(place / "twelve.py", place / out, None, 12) for out in ("alone", "many"))
result = compare(alone, many, place / "alone", place / "many")
result["restarts"] = list(map(int, sys.argv[2].split()))
print(json.dumps(result))
same = all(result[name] for name in result if name.startswith(("same", "bit")))
lost = result["states"] != ["done"] or result["left_running"] or result["ended_twice"]
sys.exit(not (same and not lost and result["trials"] == 12 and result["restarts"] == [1, 1, 0, 0]))
END
