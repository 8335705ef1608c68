#!/usr/bin/env bash
# Makes .venv with the pinned packages; run again, it does nothing unless the pins or extras changed.
# Usage: launch/setup.sh [EXTRAS]   e.g. launch/setup.sh test   or   launch/setup.sh test,tpu
#        launch/setup.sh peers      makes .venv-peers, for `bonescan benchmark --peer=torch`
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:-}"

candidates() {
  local version
  echo "${PYTHON:-}"
  for version in 3.13 3.12 3.11; do
    echo "python$version"
    compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version.*/bin/python$version" | sort -rV || true
  done
  echo python3
}

# The newest supported Python that really runs: newer ones get a newer, faster jax. pyenv puts names
# on the PATH that do not run, of Pythons that do.
find_python() {
  local candidate
  while read -r candidate; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys, sysconfig, venv, ensurepip
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) or bool(sysconfig.get_config_var("Py_GIL_DISABLED")))' \
      2>/dev/null </dev/null; then
      echo "$candidate"
      return
    fi
  done < <(candidates)
  echo "setup: found no Python 3.11, 3.12 or 3.13 with venv on the PATH or in pyenv; install one or set PYTHON" >&2
  return 2
}

# PyTorch pins other CUDA libraries than JAX takes: the peers get an environment and pins of their own.
venv=.venv constraints=constraints.txt
case ",$extras," in
  ,peers,) venv=.venv-peers constraints=constraints-peers.txt ;;
  *,peers,*)
    echo "setup: found the extras $extras, expected peers alone: they have an environment of their own" >&2
    exit 2
    ;;
esac

[ -x "$venv/bin/python" ] || "$(find_python)" -m venv "$venv"

# One stamp per set of extras: setup for the tests must not undo or repeat setup for training.
wanted="$(cat pyproject.toml "$constraints" | cksum) $(pwd)"
stamp="$venv/installed-${extras:-base}"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "setup: installing pinned packages into $venv${extras:+ with extras $extras} (a few minutes the first time)" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$constraints" --editable ".${extras:+[$extras]}" >&2
  echo "$wanted" >"$stamp"
fi
