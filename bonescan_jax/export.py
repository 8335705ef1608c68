"""Writes the weights of a run to one file, with its settings and a model card."""

import contextlib
import copy
import json
import sys
from pathlib import Path
from typing import Any

import jax
import ml_collections

from bonescan_jax.cluster.mesh import make_evaluation_mesh
from bonescan_jax.config import default_config
from bonescan_jax.errors import DISK_ERRORS, InputError
from bonescan_jax.runs.start import ENVIRONMENT, trained_on
from bonescan_jax.runs.weights_file import write_weights_file
from bonescan_jax.runs.workdir import read_config
from bonescan_jax.scans import CLASSES
from bonescan_jax.tasks import predictor_row, task_of
from bonescan_jax.trained import USUAL, Choice, arrays_by_path, load_network, resolve_predictor

_LIMITS = (
    "A research program: its findings are not a diagnosis.",
    "Scores hold for patients, cameras and annotators like those of the data named here.",
    "It tells bright spots on planar whole-body bone scans, and nothing that a scan does not show.",
)
_SIMULATED = "Trained on simulated patients: no score here was measured on real ones."
# What a headline score may be called, in evaluation/test.json.
_HEADLINE = (
    "num_images", "num_patients", "image_auc", "patient_auc", "auc", "auc_low", "auc_high",
    *(f"{score}_{name}" for name in CLASSES[1:]
      for score in ("sensitivity_at_1", "average_precision", "dice", "dice_threshold")),
)  # fmt: skip


def export(
    workdir: Path, out: Path, choice: Choice = USUAL, *, half: bool = False
) -> dict[str, Any]:
    """Writes the averaged weights of a run to a file (`runs.weights_file`).

    What `evaluate` found of the test split with these weights and this predictor goes into the
    card, and the thresholds that it chose on validation into the file. Folders are left out of the
    settings: they tell of the machine, and nothing of the network.

    Args:
        workdir: of the run.
        out: file to write, whose name ends in .npz; an older one is replaced.
        choice: checkpoint and predictor.
        half: kernels as float16.

    Returns:
        "step", "predictor", "parameters", "bytes", "sha256", whether it was "evaluated", and "out".

    Raises:
        InputError: workdir or out cannot be used.
    """
    if out.suffix != ".npz":
        raise InputError(f"--out is {str(out)!r}, expected a name that ends in .npz")
    config = read_config(workdir)
    mesh = make_evaluation_mesh(jax.devices()[:1])
    network, weights, step = load_network(config, workdir, mesh, choice.checkpoint)
    arrays = arrays_by_path(weights)
    row = predictor_row(config, network, resolve_predictor(workdir, choice))
    predictor = task_of(config).predictor_names(network)[row]
    scores = _scores(workdir, step, predictor)
    if not scores:
        print(
            f"bonescan: {workdir} was not evaluated with the weights of step {step} and the "
            f"predictor {predictor!r}: the file holds no scores and no thresholds (bonescan "
            "evaluate first)",
            file=sys.stderr,
        )
    run = {
        "step": step,
        "checkpoint": choice.checkpoint,
        "predictor": predictor,
        "data_fingerprint": trained_on(workdir),
        "evaluation": _kept_of_evaluation(workdir, scores),
    }
    start = _first_start(workdir)
    try:
        sha256 = write_weights_file(
            out, _portable(config), arrays, run, _card(config, scores, start, step), half
        )
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        raise InputError(f"--out: {out}: cannot be written ({error.strerror})") from error
    return {
        "step": step,
        "predictor": predictor,
        "parameters": sum(a.size for path, a in arrays.items() if path.startswith("params/")),
        "bytes": out.stat().st_size,
        "sha256": sha256,
        "evaluated": bool(scores),
        "out": str(out),
    }


def _portable(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The settings without the folders of this machine."""
    config = copy.deepcopy(config)
    config.data.dir = default_config().data.dir
    config.train.init_from = Path(config.train.init_from).name
    return config


def _scores(workdir: Path, step: int, predictor: str) -> dict[str, Any]:
    """evaluation/test.json, if it is of these weights and this predictor in its usual way."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((workdir / "evaluation" / "test.json").read_text())
        usual = not (found["mirror"] or found["alone"])
        if usual and (found["step"], found["selected"]) == (step, predictor):
            return found
    return {}


def _kept_of_evaluation(workdir: Path, scores: dict[str, Any]) -> dict[str, Any] | None:
    """What `evaluate` needs to score the file on data that the run was not trained on."""
    if not scores:
        return None
    kept = {name: scores[name] for name in ("selected", "min_area", "thresholds")}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        path = workdir / "evaluation" / "baseline.json"
        kept["baseline"] = json.loads(path.read_text())["fitted"]
    return kept


def _first_start(workdir: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        return json.loads((workdir / ENVIRONMENT).read_text())["starts"][0]
    return {}


def _card(
    config: ml_collections.ConfigDict, scores: dict[str, Any], start: dict[str, Any], step: int
) -> dict[str, Any]:
    """What a reader of the file must know; None where it is not known."""
    data = config.data
    simulated = [_SIMULATED] if data.name == "phantom" else []
    return {
        "data": {
            "name": data.name,
            "views": data.views,
            "mask": data.mask,
            "fold": data.fold,
            "training_examples": start.get("num_examples"),
            "fingerprint": start.get("data_fingerprint"),
        },
        "training": {
            "steps": step,
            "commit": start.get("commit"),
            "packages": start.get("packages"),
            "device_kind": start.get("device_kind"),
        },
        "scores": {
            "split": "test",
            "same_data": scores.get("same_data"),
            **{name: scores[name] for name in _HEADLINE if name in scores},
        }
        if scores
        else None,
        "limits": [*_LIMITS, *simulated],
    }
