"""Scores trained networks on the whole scans of a split, as their task wants it."""

import contextlib
import copy
import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from bonescan_jax.cluster.agreement import from_primary
from bonescan_jax.cluster.distributed import is_primary
from bonescan_jax.cluster.mesh import make_evaluation_mesh
from bonescan_jax.datasets.records import ALL, data_fingerprint
from bonescan_jax.errors import InputError
from bonescan_jax.input_pipeline import view_records
from bonescan_jax.metrics.paired import compare_runs
from bonescan_jax.metrics.rows import ViewRow, read_rows, write_rows, write_tables
from bonescan_jax.metrics.summary import Thresholds, choose_thresholds, summarize
from bonescan_jax.metrics.text import text_table
from bonescan_jax.passes import Pass
from bonescan_jax.runs.start import trained_on
from bonescan_jax.runs.workdir import write_json
from bonescan_jax.tasks import require_segmentation, task_of
from bonescan_jax.trained import (
    USUAL,
    Choice,
    Ensemble,
    Trained,
    digest_of,
    folder_of,
    load_network,
    load_trained,
)

# In the folder evaluation: what the networks are compared with, fitted to the training views.
BASELINE = "baseline.json"


class DataSet(NamedTuple):
    """A prepared data set that the networks were not trained on."""

    name: str
    folder: Path  # that holds it


def evaluate(
    workdirs: Sequence[Path],
    split: str | None = None,
    choice: Choice = USUAL,
    *,
    changes: Mapping[str, Any] | None = None,
    other_data: DataSet | None = None,
    out: Path | None = None,
    against: Path | None = None,
    unaveraged: bool = False,
) -> dict[str, Any]:
    """Scores runs on a split and writes evaluation/<split>.json and rows into a folder.

    All devices found share the scans, whatever devices the runs were trained on. Several runs
    predict as one: the mean of their probabilities. Thresholds are chosen on the validation split
    of the data that the runs were trained on; where they were trained on several folds of it, on
    each one's own, by itself.

    Args:
        workdirs: of training runs, or files of their weights, which need `out` and bring the
            thresholds that were chosen when they were written.
        split: train, validation, test or all; by default test, or all of another data set.
        choice: whose scores are the headline.
        changes: settings by name that differ from the runs', such as {"data.dir": "elsewhere"}.
        other_data: an external test set.
        out: the folder; by default the workdir, or one beside it (`trained.folder_of`), and for
            an external test set one in there.
        against: workdir or folder of another evaluation of the same views, to compare with.
        unaveraged: scores the masks of the weights of the last step, not averaged, too.

    Returns:
        The headline scores; of masks beside those of the threshold detector. "same_data" tells
        whether these are the data that the run was trained on: otherwise the split may hold its
        training patients. None: the run does not say, or they are external.

    Raises:
        InputError: workdir, data or choice cannot be used.
    """
    mesh = make_evaluation_mesh()
    members = load_trained(workdirs, mesh, choice, changes or {})
    in_files = any(member.file for member in members)
    home = out if out and (in_files or not other_data) else folder_of(workdirs)
    scorer = known = _Scorer(members, mesh, choice, home)
    split = split or (ALL if other_data else "test")
    thresholds, same_data = None, None
    if other_data:
        config = _on_other_data(members, other_data)
        with _needed_for(other_data):
            baseline, thresholds = known.baseline(), known.thresholds()
        place = out or home / f"on_{other_data.folder.resolve().name}_{other_data.name}"
        scorer = _Scorer(members, mesh, choice, place, config, baseline)
    else:
        same_data = _check_own_data(members)
        if split != "validation":
            thresholds = known.thresholds()
    rows, images_per_second = scorer.predict(split, unaveraged)
    thresholds = thresholds or choose_thresholds(rows)
    about = scorer.about(split)
    summary = {
        **about,
        **scorer.task.headline(rows, scorer.ensemble.selected),
        "images_per_second": images_per_second,
        "workdir": str(scorer.folder),
        "same_data": same_data,
    }
    details = summarize(rows, scorer.ensemble.selected, thresholds)
    if is_primary():
        print(text_table(about | details), file=sys.stderr)
    write_json(scorer.folder / "evaluation" / f"{split}.json", summary | details)
    if against is not None:
        compared = _compare(rows, scorer.ensemble.selected, thresholds, against, split)
        write_json(scorer.folder / "evaluation" / f"{split}_against.json", compared)
        summary["against"] = compared["against"]
    return summary


def _compare(
    rows: Sequence[ViewRow], selected: str, thresholds: Thresholds, against: Path, split: str
) -> dict[str, Any]:
    about, others = read_rows(rows_file(against, split))
    path = against / "evaluation" / f"{split}.json"
    try:
        chosen = Thresholds(**json.loads(path.read_text())["thresholds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: holds no thresholds ({error}); evaluate that run again"
        ) from error
    found = compare_runs(rows, others, (selected, about["selected"]), (thresholds, chosen))
    return {"against": str(against), "step_of_other": about["step"], **found}


def rows_file(folder: Path, split: str) -> Path:
    """Where the rows of a split are."""
    return folder / "evaluation" / f"{split}.rows.jsonl"


class _Scorer:
    """Makes the rows of splits by networks that predict as one, and keeps them in a folder."""

    def __init__(
        self,
        members: Sequence[Trained],
        mesh: Mesh,
        choice: Choice,
        folder: Path,
        config: ml_collections.ConfigDict | None = None,
        baseline: dict[str, Any] | None = None,
    ) -> None:
        self.members, self.mesh, self.choice, self.folder = members, mesh, choice, folder
        self.config = config or members[0].config
        self.task = task_of(self.config)
        self.ensemble = Ensemble(members, mesh, choice.mirror, choice.alone)
        self._baseline = baseline

    def about(self, split: str) -> dict[str, Any]:
        """What the rows of a split depend on."""
        data, members = self.config.data, self.members
        return {
            "split": split,
            "step": members[0].step if len(members) == 1 else None,
            "members": [
                {
                    "workdir": str(each.workdir),
                    "step": each.step,
                    "predictor": each.predictor,
                    "weights": digest,
                }
                for each, digest in zip(members, self._digests, strict=True)
            ],
            "selected": self.ensemble.selected,
            "mirror": self.choice.mirror,
            "alone": self.choice.alone,
            "checkpoint": self.choice.checkpoint,
            "data": data.name,
            "data_dir": data.dir,
            "data_fingerprint": _fingerprint(self.config, members[0]),
            "min_area": self.config.evaluate.min_area,
        }

    @functools.cached_property
    def _digests(self) -> list[str]:
        return [digest_of(each.weights) for each in self.members]

    def thresholds(self) -> Thresholds:
        """Chosen on the validation split; those that a file of weights has for this choice."""
        kept = self._in_file()
        if kept.get("thresholds") and _made_for(kept, self.ensemble.selected, self.config):
            return Thresholds(**kept["thresholds"])
        return choose_thresholds(self.rows_to_choose_on())

    def _in_file(self) -> dict[str, Any]:
        """What a file of weights holds of its evaluation."""
        file = self.members[0].file if len(self.members) == 1 else None
        return (file or {}).get("evaluation") or {}

    def rows_to_choose_on(self) -> list[ViewRow]:
        """Of the validation split; each member's own where they were trained on several folds."""
        if len({_trained_patients(each) for each in self.members}) == 1:
            return self._kept_or_predicted("validation")
        return [
            row
            for each in self.members
            for row in _Scorer(
                [each],
                self.mesh,
                self.choice,
                self.folder / each.workdir.stem if each.file else each.workdir,
            ).rows_to_choose_on()
        ]

    def _kept_or_predicted(self, split: str) -> list[ViewRow]:
        """The rows in the folder, if they are of these networks and data."""
        path, about = rows_file(self.folder, split), self.about(split)
        if from_primary(lambda: _are_kept(path, about)):
            return read_rows(path)[1]
        return self.predict(split)[0]

    def predict(self, split: str, unaveraged: bool = False) -> tuple[list[ViewRow], float | None]:
        """Predicts a split and writes its rows; also the views a second that this took."""
        ensembles, names = [self.ensemble], list(self.ensemble.names)
        if unaveraged:
            require_segmentation(self.config, "--unaveraged", "what it scores are masks")
            ensembles.append(
                Ensemble(self._unaveraged(), self.mesh, self.choice.mirror, self.choice.alone)
            )
            names += [f"{name} unaveraged" for name in self.ensemble.names]

        def say(arrays: dict[str, jax.Array]) -> list[jax.Array]:
            return [ensemble(arrays) for ensemble in ensembles]

        over_split = Pass(self.config, split, self.mesh, shown=is_primary())
        baseline = self.baseline()
        rows = list(
            self.task.scored_rows(self.config, names, self.ensemble.row, over_split(say), baseline)
        )
        if is_primary():
            write_rows(rows_file(self.folder, split), self.about(split), rows)
            write_tables(self.folder / "evaluation" / split, rows)
        return rows, over_split.images_per_second()

    def _unaveraged(self) -> list[Trained]:
        for each in self.members:
            if each.file:
                raise InputError(f"--unaveraged: {each.workdir} holds averaged weights only")
        return [
            each._replace(
                weights=load_network(
                    each.config, each.workdir, self.mesh, self.choice.checkpoint, averaged=False
                )[1]
            )
            for each in self.members
        ]

    def baseline(self) -> dict[str, Any]:
        """What the networks are compared with; once fitted, it is kept in the folder."""
        if self._baseline is None:
            self._baseline = self._in_file().get("baseline") or from_primary(
                self._kept_or_fitted_baseline
            )
        return self._baseline

    def _kept_or_fitted_baseline(self) -> dict[str, Any]:
        path, data = self.folder / "evaluation" / BASELINE, self.config.data
        about = {
            "data_fingerprint": _fingerprint(self.config, self.members[0]),
            "fold": data.fold,
            "views": data.views,
            "mask": data.mask,
        }
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text())
            if {name: kept[name] for name in about} == about:
                return kept["fitted"]
        fitted = self.task.fit_baseline(self.config, view_records(self.config, "train"))
        write_json(path, about | {"fitted": fitted})
        return fitted


def _made_for(kept: Mapping[str, Any], selected: str, config: ml_collections.ConfigDict) -> bool:
    """Whether thresholds were chosen for this predictor and these candidates."""
    return (kept["selected"], kept["min_area"]) == (selected, config.evaluate.min_area)


def _are_kept(path: Path, about: dict[str, Any]) -> bool:
    """Whether there are rows of the same networks and data, wherever those were then."""
    with contextlib.suppress(InputError, KeyError, TypeError):
        return _identity(read_rows(path)[0]) == _identity(about)
    return False


def _identity(about: Mapping[str, Any]) -> dict[str, Any]:
    """What rows depend on, without the folders, which may have moved."""
    names = ("split", "selected", "mirror", "alone", "checkpoint", "data_fingerprint", "min_area")
    members = [(each["weights"], each["predictor"]) for each in about["members"]]
    return {name: about[name] for name in names} | {"members": members}


@contextlib.contextmanager
def _needed_for(other: DataSet) -> Iterator[None]:
    """Says why the data of the training are needed where others are to be scored."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"{error} Thresholds are chosen on the data that the runs were trained on, before "
            f"{other.name} in {other.folder} is scored: name their folder (--config.data.dir), or "
            "evaluate once where they are, and what was chosen is kept"
        ) from error


# ---- Which data ----------------------------------------------------------------------------------


def _fingerprint(config: ml_collections.ConfigDict, member: Trained) -> str | None:
    """Of the data of a config; where they are not at hand, what the run was trained on."""
    try:
        return data_fingerprint(Path(config.data.dir), config.data.name)
    except InputError:
        return _trained_on(member)


def _trained_on(member: Trained) -> str | None:
    """The fingerprint of the data that it was trained on, if it says so."""
    return member.file.get("data_fingerprint") if member.file else trained_on(member.workdir)


def _trained_patients(member: Trained) -> tuple[str | None, int]:
    """Equal for runs that were trained and validated on the same patients."""
    return _fingerprint(member.config, member), member.config.data.fold


def _on_other_data(members: Sequence[Trained], other: DataSet) -> ml_collections.ConfigDict:
    """The config of the first member with other data.

    Raises:
        InputError: there are no such data, or a member was trained on them.
    """
    fingerprint = data_fingerprint(other.folder, other.name)
    for each in members:
        if _trained_on(each) == fingerprint:
            raise InputError(
                f"--data_dir: {other.name} in {other.folder} is the data that {each.workdir} was "
                "trained on, expected data that no run has seen; leave --data and --data_dir out"
            )
    config = copy.deepcopy(members[0].config)
    config.data.update({"name": other.name, "dir": str(other.folder), "fold": -1})
    task_of(config).validate(config)
    return config


def _check_own_data(members: Sequence[Trained]) -> bool | None:
    """Whether the data are those that the runs were trained on; says so where they are not.

    Raises:
        InputError: the runs were trained on several folds: every split holds patients that one of
            them was trained on.
    """
    first, *others = members
    for each in others:
        if _trained_patients(each) != _trained_patients(first):
            raise InputError(
                f"{each.workdir}: was trained on fold {each.config.data.fold}, expected "
                f"{first.config.data.fold} as {first.workdir} and the same data: a split of the "
                "one holds patients of the training of the other; give an external test set "
                "(--data, --data_dir)"
            )
    found = [_same_data(each) for each in members]
    return False if False in found else None if None in found else True


def _same_data(member: Trained) -> bool | None:
    data, trained = member.config.data, _trained_on(member)
    here = data_fingerprint(Path(data.dir), data.name)
    if trained is None or trained == here:
        return None if trained is None else True
    if is_primary():
        print(
            f"bonescan: {data.dir}: {data.name} is not the data that {member.workdir} was "
            f"trained on (fingerprint {here}, expected {trained}): this split may hold patients "
            "of its training",
            file=sys.stderr,
        )
    return False
