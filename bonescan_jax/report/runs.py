"""What the folders of runs and evaluations hold that goes into a page."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bonescan_jax.errors import InputError

# In the order in which they are looked for: the first is the one that is browsed.
SPLITS = ("test", "all", "validation", "train")
CROSSVALIDATION = "crossvalidation"


class Run(NamedTuple):
    """A run, an evaluation of an ensemble or of other data, or a cross-validation."""

    name: str
    folder: Path  # holds evaluation/
    config_folder: Path | None  # holds config.json: of an ensemble the workdir of its first member
    settings: dict[str, Any]  # config.json
    records: dict[str, list[dict[str, Any]]]  # metrics.jsonl by kind
    num_torn: int  # lines of it that a crash cut short
    starts: list[dict[str, Any]]  # environment.json
    evaluations: dict[str, dict[str, Any]]  # by split
    comparisons: dict[str, dict[str, Any]]  # with another run, by split
    external: "tuple[Run, ...]"  # evaluations of this run on other data
    folds: "tuple[Run, ...]"  # of a cross-validation

    @property
    def evaluation(self) -> dict[str, Any]:
        """The one that counts; empty where there is none."""
        return next(iter(self.evaluations.values()), {})

    @property
    def trained_on(self) -> str | None:
        """The fingerprint of the data of its training, where that is known."""
        return self.starts[-1].get("data_fingerprint") if self.starts else None

    @property
    def rows_file(self) -> Path | None:
        """The rows that are browsed."""
        names = (CROSSVALIDATION,) if self.folds else SPLITS
        for split in names:
            path = self.folder / "evaluation" / f"{split}.rows.jsonl"
            # Rows of the validation split are kept for choosing thresholds, evaluated or not.
            if path.is_file() and (split in self.evaluations or split in ("test", CROSSVALIDATION)):
                return path
        return None


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """What folders hold, each under a name that no other has.

    Raises:
        InputError: a folder holds nothing of the kind, or a JSON file in it cannot be read.
    """
    places = [folder.resolve() for folder in folders]
    if len(set(places)) < len(places):
        raise InputError(f"--workdir names {max(folders, key=list(folders).count)} twice")
    names = _distinct_names(places)
    return [load_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def with_folds(runs: Iterable[Run]) -> Iterator[Run]:
    """Runs, but the folds of a cross-validation in its place."""
    for run in runs:
        if not run.folds:
            yield run
        yield from (fold._replace(name=f"{run.name}, {fold.name}") for fold in run.folds)


def load_run(folder: Path, name: str) -> Run:
    """What a folder holds: see `load_runs`."""
    folds = tuple(
        load_run(place, place.name.replace("_", " "))
        for place in sorted(folder.glob("fold_*"), key=_number)
        if (place / "config.json").is_file()
    )
    evaluations = _read_each(folder, (CROSSVALIDATION,) if folds else SPLITS, "")
    config_folder = _config_folder(folder, folds, evaluations.values())
    external = tuple(
        load_run(place, f"{name} {place.name.replace('_', ' ')}")
        for place in sorted(folder.glob("on_*"))
        if _read_each(place, SPLITS, "")
    )
    if not (config_folder or evaluations or external):
        raise InputError(
            f"{folder / 'config.json'}: not found; expected the work directory of a training run, "
            "of a cross-validation, or a folder that `bonescan evaluate` wrote"
        )
    records, num_torn = read_metrics(folder / "metrics.jsonl")
    environment = config_folder / "environment.json" if config_folder else None
    starts = read_json(environment).get("starts") if environment and environment.is_file() else None
    return Run(
        name=name,
        folder=folder,
        config_folder=config_folder,
        settings=read_json(config_folder / "config.json") if config_folder else {},
        records=records,
        num_torn=num_torn,
        starts=starts or [],
        evaluations=evaluations,
        comparisons=_read_each(folder, SPLITS, "_against"),
        external=external,
        folds=folds,
    )


def _read_each(folder: Path, splits: Iterable[str], suffix: str) -> dict[str, dict[str, Any]]:
    paths = {split: folder / "evaluation" / f"{split}{suffix}.json" for split in splits}
    return {split: read_json(path) for split, path in paths.items() if path.is_file()}


def _config_folder(
    folder: Path, folds: Sequence[Run], evaluations: Iterable[dict[str, Any]]
) -> Path | None:
    """Where the settings are: here, with the first fold, or with the first member."""
    members = [each["members"][0]["workdir"] for each in evaluations if each.get("members")]
    places = [folder, *(fold.folder for fold in folds), *map(Path, members)]
    for member in members:  # moved together with what was evaluated, or seen from elsewhere
        places += [place for place in folder.resolve().parents if place.name == Path(member).name]
        places.append(folder.resolve().parent / Path(member).name)
    return next((place for place in places if (place / "config.json").is_file()), None)


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of paths, so many that no two are equal."""
    names = [folder.name for folder in folders]
    for depth in range(2, max((len(folder.parts) for folder in folders), default=0) + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
    return names


def _number(folder: Path) -> tuple[int, str]:
    number = folder.name.removeprefix("fold_")
    return (int(number) if number.isdecimal() else 0), number


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file.

    Raises:
        InputError: it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, but {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_metrics(path: Path) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Return the records by kind in order of step, and the number of lines that a crash cut short.

    A run that was resumed repeats steps; the last record of a step and kind is the one that counts.
    """
    latest, num_torn = {}, 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
            latest[record["kind"], record["step"]] = record
        except (ValueError, KeyError, TypeError):
            num_torn += 1
    records: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for (kind, _), record in sorted(latest.items()):
        records.setdefault(kind, []).append(record)
    return records, num_torn


def median_rate(train: Iterable[dict[str, Any]]) -> float | None:
    """Images a second of a training."""
    rates = sorted(r["images_per_second"] for r in train if r.get("images_per_second"))
    return rates[len(rates) // 2] if rates else None
