"""Verbs of a run: train, crossvalidate, evaluate, predict, export, report."""

import sys
from pathlib import Path
from typing import Any

from absl import flags

from bonescan_jax.cli.flags import (
    changes_flag,
    choice_flags,
    config_flag,
    in_job,
    integer_flag,
    process_flags,
    read_changes,
    read_choice,
    read_config,
    read_workdirs,
    refuse_positionals,
    require,
    string_flag,
    weights_flags,
    workdir_flag,
    workdirs_flag,
)
from bonescan_jax.cli.sweep import require_optuna, storage_flag
from bonescan_jax.cli.verb import Verb, finish

# ---- train ---------------------------------------------------------------------------------------


def _define_train(values: flags.FlagValues) -> None:
    config_flag(values)
    workdir_flag(values)
    string_flag(
        values, "executable", None, "The step, if `bonescan compile --out` has compiled it."
    )
    process_flags(values)


def _run_train(values: flags.FlagValues, rest: list[str]) -> dict[str, Any] | None:
    from bonescan_jax.train import train

    refuse_positionals(rest)
    require(values, "workdir")
    config = read_config(values)
    executable = Path(values.executable) if values.executable else None
    return in_job(values, lambda: train(config, Path(values.workdir), executable))


# ---- crossvalidate -------------------------------------------------------------------------------


def _define_crossvalidate(values: flags.FlagValues) -> None:
    config_flag(values)
    workdir_flag(values)


def _run_crossvalidate(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.crossvalidate import crossvalidate

    refuse_positionals(rest)
    require(values, "workdir")
    return crossvalidate(read_config(values), Path(values.workdir))


# ---- evaluate ------------------------------------------------------------------------------------


def _define_evaluate(values: flags.FlagValues) -> None:
    workdirs_flag(values)
    changes_flag(values)
    choice_flags(values)
    process_flags(values)
    flags.DEFINE_enum(
        "split",
        None,
        ["train", "validation", "test", "all"],
        "What to score; by default test, or all of another data set.",
        flag_values=values,
    )
    string_flag(values, "data", None, "Name of another prepared data set: an external test set.")
    string_flag(values, "data_dir", None, "Folder that holds it.")
    string_flag(values, "out", None, "Folder for evaluation/; the result line names the default.")
    text = "Workdir of another run that was evaluated on the same views, to compare with."
    string_flag(values, "against", None, text)
    text = "Scores the masks of the weights of the last step, not averaged, too."
    flags.DEFINE_bool("unaveraged", False, text, flag_values=values)


def _run_evaluate(values: flags.FlagValues, rest: list[str]) -> dict[str, Any] | None:
    from bonescan_jax.evaluate import DataSet, evaluate

    refuse_positionals(rest)
    workdirs = read_workdirs(values)
    if bool(values.data) != bool(values.data_dir):
        require(values, "data", "data_dir")
    other = DataSet(values.data, Path(values.data_dir)) if values.data else None
    return in_job(
        values,
        lambda: evaluate(
            workdirs,
            values.split,
            read_choice(values),
            changes=read_changes(values),
            other_data=other,
            out=Path(values.out) if values.out else None,
            against=Path(values.against) if values.against else None,
            unaveraged=values.unaveraged,
        ),
    )


# ---- predict -------------------------------------------------------------------------------------


def _define_predict(values: flags.FlagValues) -> None:
    workdirs_flag(values)
    changes_flag(values)
    choice_flags(values)
    string_flag(values, "input", None, "JPEG, PNG or DICOM file; a folder or zip file of them.")
    text = "Folder for masks, overlays and boxes; default: predictions, in the workdir if any."
    string_flag(values, "out", None, text)
    text = (
        "Only the first so many pairs and lone views (or views, if the network sees one); 0: all."
    )
    integer_flag(values, "limit", 0, text, 0)


def _run_predict(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    refuse_positionals(rest)
    require(values, "input")
    workdirs = read_workdirs(values) if values.workdir else [_released()]

    from bonescan_jax.predict import predict

    found = predict(
        workdirs,
        Path(values.input),
        Path(values.out) if values.out else None,
        read_choice(values),
        limit=values.limit,
        changes=read_changes(values),
    )
    return finish(*found)


def _released() -> Path:
    """The weights that come with the package, named on standard error."""
    from bonescan_jax.runs.weights_file import released_weights

    path = released_weights()
    print(
        f"bonescan: no --workdir, so the released weights {path.name} are used; this is a research "
        "program, and what it finds is not a diagnosis",
        file=sys.stderr,
    )
    return path


# ---- export --------------------------------------------------------------------------------------


def _define_export(values: flags.FlagValues) -> None:
    workdir_flag(values)
    weights_flags(values)
    string_flag(values, "out", None, "File to write, NAME.npz.")
    text = "Kernels as float16: half the bytes, rounded in the fourth digit."
    flags.DEFINE_bool("float16", False, text, flag_values=values)


def _run_export(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.export import export

    refuse_positionals(rest)
    require(values, "workdir", "out")
    return export(Path(values.workdir), Path(values.out), read_choice(values), half=values.float16)


# ---- report --------------------------------------------------------------------------------------


def _define_report(values: flags.FlagValues) -> None:
    text = "Folder of a run, of a cross-validation or of an evaluation; several, as A,B,C."
    string_flag(values, "workdir", None, text)
    changes_flag(values)
    text = "How large the page may be; where it would be larger, some scans have no pictures."
    integer_flag(values, "max_megabytes", 64, text, lower=1)
    text = "File for the page; by default report.html in the folder, of several A+B+C.html there."
    string_flag(values, "out", None, text)
    string_flag(values, "study", None, "Folder of a sweep: the page is on its study.")
    storage_flag(values)


def _run_report(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.report.page import write_report

    refuse_positionals(rest)
    out = Path(values.out) if values.out else None
    if values.study:
        require_optuna()
        from bonescan_jax.sweep.page import write_study_report
        from bonescan_jax.sweep.status import recorded

        folder = Path(values.study)
        file, storage = recorded(folder)
        return write_study_report(file, folder, values.storage or storage, out)
    return write_report(read_workdirs(values), values.max_megabytes, read_changes(values), out)


VERBS = {
    "train": Verb(
        "train --config=FILE --workdir=DIR [--config.KEY=VALUE …]",
        "Trains a network; continues the run that the workdir holds.\n\n"
        "The workdir gets config.json, checkpoints/, metrics.jsonl and tensorboard/. Each process\n"
        "of a job of several runs this same command; docs/clusters.md says how clusters start it.\n"
        "\n"
        "On SIGTERM, SIGINT (Ctrl-C) or SIGHUP it saves and exits with code 75: the same command\n"
        "goes on from there. Ctrl-C again ends it at once; what was saved before stays.",
        _define_train,
        _run_train,
    ),
    "crossvalidate": Verb(
        "crossvalidate --config=FILE --workdir=DIR [--config.KEY=VALUE …]",
        "Trains and tests one run per fold; scores every patient by the run that never saw it.\n\n"
        "The runs are WORKDIR/fold_0 …; what is there is continued. data.num_folds says how many:\n"
        "`bonescan prepare` dealt the patients. Signals are treated as in `bonescan train`.",
        _define_crossvalidate,
        _run_crossvalidate,
    ),
    "evaluate": Verb(
        "evaluate --workdir=DIR[,DIR …] [--split=test] [--against=DIR] [--data=NAME …]",
        "Scores trained networks on whole scans, compared with a brightness threshold.\n\n"
        "The workdir gets evaluation/SPLIT.rows.jsonl, a row for each view with all that was\n"
        "found and missed (as CSV too), and SPLIT.json with what follows from the rows: lesions\n"
        "(FROC), patients, masks and calibration with 95 % intervals over patients. Thresholds\n"
        "are chosen on the validation split. --against compares with a run that was evaluated\n"
        "before, in SPLIT_against.json. All devices that are found share the work.\n\n"
        "Several workdirs, as of folds or seeds, predict as one network; what is found goes to\n"
        "the folder A+B+C beside the first. --data and --data_dir name an external test set,\n"
        "which is scored at the thresholds that were chosen on the data of the training;\n"
        "--config.data.dir=DIR tells where those are now. A file of bonescan export in the place\n"
        "of a workdir brings its thresholds, and needs --out.",
        _define_evaluate,
        _run_evaluate,
    ),
    "predict": Verb(
        "predict [--workdir=DIR[,DIR …]] --input=FILE|DIR|ZIP [--out=DIR]",
        "Finds hot spots on JPEG, PNG or DICOM scans.\n\n"
        "Each view gets NAME_mask.png (0 background, 1 abnormal, 2 normal), NAME_overlay.png\n"
        "and NAME.json with boxes and scores, in the folders of the input. A file that is no\n"
        "whole-body scan is skipped and named in a table, and the exit code is 2. Several\n"
        "workdirs predict as one network. Without one, the weights that come with this package\n"
        "are used, and results go to predictions in the current folder.",
        _define_predict,
        _run_predict,
    ),
    "export": Verb(
        "export --workdir=DIR --out=FILE.npz [--float16]",
        "Writes the weights of a run to one file, without pickle.\n\n"
        "The file holds the averaged weights, the settings of the run, the predictor and the\n"
        "thresholds that were chosen on validation, and a model card: data, scores, limits.\n"
        "Scores and thresholds are those of bonescan evaluate, so evaluate first. predict and\n"
        "evaluate take the file as --workdir, and train as --config.train.init_from.",
        _define_export,
        _run_export,
    ),
    "report": Verb(
        "report --workdir=DIR[,DIR …] [--out=FILE] [--max_megabytes=64] [--config.data.dir=DIR …]",
        "Gathers scores, curves and every test scan of runs into one page.\n\n"
        "Of several runs, or of the folds of a cross-validation, it has their figures and curves\n"
        "beside each other, the settings in which they differ, and a choice of the run whose\n"
        "findings are shown on the scans. It is report.html in the folder, or A+B+C.html beside\n"
        "the first of several. A folder that `bonescan evaluate` wrote, as of an ensemble, is one\n"
        "too. The page needs no network.\n\n"
        "With --study=DIR the page is on the study of a sweep, and DIR the --out of its workers:\n"
        "trials to filter and sort, what mattered, the best one with its command. A CSV of all\n"
        "trials lies beside it. --storage is needed where its URL holds a password.",
        _define_report,
        _run_report,
    ),
}
