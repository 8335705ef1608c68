#!/usr/bin/env bash
# Makes .venv with the pinned packages; run again, it does nothing unless the pins or extras changed.
# Usage: launch/setup.sh [EXTRAS]   e.g. launch/setup.sh test   or   launch/setup.sh test,tpu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:-}"

# The newest supported Python that really runs: pyenv and the like leave names on the PATH that do not.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "setup: found no Python 3.11, 3.12 or 3.13 with venv on the PATH; install one or set PYTHON" >&2
  return 2
}

[ -x .venv/bin/python ] || "$(find_python)" -m venv .venv

# One stamp per set of extras: setup for the tests must not undo or repeat setup for training.
wanted="$(cat pyproject.toml constraints.txt | cksum) $(pwd)"
stamp=".venv/installed-${extras:-base}"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "setup: installing pinned packages into .venv${extras:+ with extras $extras} (a few minutes the first time)" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".${extras:+[$extras]}" >&2
  echo "$wanted" >"$stamp"
fi
