"""The verbs of `bonescan`: flags only, each verb's work is in the module it calls."""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from bonescan_jax.cli.flags import (
    checkpoint_flag,
    config_flag,
    in_job,
    integer_flag,
    predictor_flag,
    process_flags,
    read_config,
    refuse_positionals,
    require,
    string_flag,
    workdir_flag,
)
from bonescan_jax.errors import InputError


class Verb(NamedTuple):
    """What a verb is called with and what it does."""

    usage: str
    help: str
    define: Callable[[flags.FlagValues], None]
    run: Callable[[flags.FlagValues, list[str]], dict[str, Any]]


# ---- phantom -------------------------------------------------------------------------------------


def _define_phantom(values: flags.FlagValues) -> None:
    string_flag(values, "out", None, "Folder to write; must not hold anything yet.")
    flags.DEFINE_enum("layout", "bs80k", ["bs80k", "dicom"], "Kind of files.", flag_values=values)
    integer_flag(values, "patients", 200, "How many patients.", 1)
    integer_flag(values, "seed", 0, "Patient n of a seed is always the same.", 0)
    integer_flag(values, "processes", os.cpu_count() or 1, "Simulated side by side.", 1)
    text = "Writes no files: compares the patients with what was measured on real scans."
    flags.DEFINE_bool("validate", False, text, flag_values=values)


def _run_phantom(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.phantom.dicom import write_dicom
    from bonescan_jax.phantom.files import write_bs80k
    from bonescan_jax.runs.progress import Progress

    refuse_positionals(rest)
    if values.validate:
        return _validate_phantom(values)
    require(values, "out")
    write = write_dicom if values.layout == "dicom" else write_bs80k
    with Progress("simulate patients", values.patients) as progress:
        return write(
            Path(values.out),
            values.patients,
            values.seed,
            num_processes=values.processes,
            on_patient=lambda patient: progress.advance(),
        )


def _validate_phantom(values: flags.FlagValues) -> dict[str, Any]:
    from bonescan_jax.phantom.realism import markdown, validate
    from bonescan_jax.runs.progress import Progress

    if values.out:
        raise InputError("--out: found together with --validate, which writes no files")
    with Progress("simulate patients", values.patients) as progress:
        rows, summary = validate(
            values.patients,
            values.seed,
            num_processes=values.processes,
            on_patient=lambda patient: progress.advance(),
        )
    print(markdown(rows))
    return summary


# ---- prepare -------------------------------------------------------------------------------------


def _define_prepare(values: flags.FlagValues) -> None:
    config_flag(values)
    string_flag(values, "source", None, "Folder or zip file laid out as BS-80K.")
    string_flag(values, "data_dir", None, "Where to put it; default: data.dir of the config.")
    integer_flag(
        values, "patients", 200, "To simulate, where data.name is phantom without source.", 3
    )
    integer_flag(values, "seed", 0, "Of the simulated patients.", 0)
    flags.DEFINE_bool(
        "strict", False, "Refuse what would be repaired or skipped.", flag_values=values
    )
    flags.DEFINE_bool(
        "keep_known_defects",
        False,
        "Use the images of BS-80K too that are known to be wrong or of another kind of study.",
        flag_values=values,
    )


def _run_prepare(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.datasets.bs80k import BS80K, prepare
    from bonescan_jax.datasets.phantom import Phantom, prepare_phantom
    from bonescan_jax.datasets.regions import Regions
    from bonescan_jax.runs.progress import Progress
    from bonescan_jax.scans.findings import Finding, print_findings

    refuse_positionals(rest)
    data = read_config(values).data
    test, validation = data.test_fraction, data.validation_fraction
    data_dir = Path(values.data_dir or data.dir)
    settings = {
        "name": data.name,
        "split_seed": data.split_seed,
        "split_fractions": (1 - validation - test, validation, test),
        "num_folds": data.num_folds,
    }
    preparing = Progress("prepare views")
    with contextlib.ExitStack() as bars:  # one at a time
        settings["on_file"] = bars.enter_context(Progress("check files")).advance_to
        settings["on_scan"] = preparing.advance_to

        def show_findings(read: dict[str, int], findings: Sequence[Finding]) -> None:
            bars.close()
            print_findings(read, findings)
            bars.enter_context(preparing)

        settings["on_checked"] = show_findings
        if not values.source and data.name == "phantom":
            return prepare_phantom(
                data_dir, num_patients=values.patients, seed=values.seed, **settings
            )
        require(values, "source")
        settings["strict"] = values.strict
        settings["keep_known_defects"] = values.keep_known_defects
        builder = {"bs80k": BS80K, "phantom": Phantom, "regions": Regions}[data.name]
        return prepare(Path(values.source), data_dir, builder=builder, **settings)


# ---- inspect -------------------------------------------------------------------------------------


def _run_inspect(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.inspect import inspect_files

    if not rest:
        raise InputError("found no FILE or DIR, expected at least one; see --help")
    result, problems = inspect_files([Path(name) for name in rest])
    if problems:
        print(json.dumps(result), flush=True)  # the others have been read
        if len(problems) == 1:
            raise InputError(problems[0])
        count = f"{len(problems)} of {result['files']}"
        raise InputError(f"{count} files cannot be read, see the table")
    return result


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
    workdir_flag(values)
    predictor_flag(values)
    checkpoint_flag(values)
    process_flags(values)
    flags.DEFINE_enum(
        "split", "test", ["train", "validation", "test"], "What to score.", flag_values=values
    )


def _run_evaluate(values: flags.FlagValues, rest: list[str]) -> dict[str, Any] | None:
    from bonescan_jax.evaluate import evaluate

    refuse_positionals(rest)
    require(values, "workdir")
    workdir = Path(values.workdir)
    return in_job(
        values, lambda: evaluate(workdir, values.split, values.predictor, values.checkpoint)
    )


# ---- predict -------------------------------------------------------------------------------------


def _define_predict(values: flags.FlagValues) -> None:
    workdir_flag(values)
    predictor_flag(values)
    checkpoint_flag(values)
    string_flag(values, "input", None, "JPEG, PNG or DICOM file, or a folder of them.")
    string_flag(
        values, "out", None, "Folder for masks, overlays and boxes; default: in the workdir."
    )
    integer_flag(values, "limit", 0, "Only the first so many files of a folder; 0 is all.", 0)


def _run_predict(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.predict import predict

    refuse_positionals(rest)
    require(values, "workdir", "input")
    workdir = Path(values.workdir)
    out = Path(values.out) if values.out else workdir / "predictions"
    arguments = (values.predictor, values.limit, values.checkpoint)
    return predict(workdir, Path(values.input), out, *arguments)


# ---- report --------------------------------------------------------------------------------------


def _run_report(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.report.page import write_report

    refuse_positionals(rest)
    require(values, "workdir")
    return write_report(Path(values.workdir))


# ---- benchmark -----------------------------------------------------------------------------------


def _define_benchmark(values: flags.FlagValues) -> None:
    config_flag(values)
    kinds = ["step", "input", "loop", "inference"]
    flags.DEFINE_enum("what", "step", kinds, "What to measure.", flag_values=values)
    flags.DEFINE_enum(
        "peer",
        None,
        ["torch"],
        "Measure PyTorch and MONAI beside it; needs the extra `peers`.",
        flag_values=values,
    )
    integer_flag(values, "rounds", 5, "How often each is measured; the median counts.", 1)
    integer_flag(values, "seconds", 4, "How long at least, each time.", 1)


def _run_benchmark(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.benchmark import benchmark

    refuse_positionals(rest)
    config = read_config(values)
    return benchmark(config, values.what, values.peer, values.rounds, values.seconds)


# ---- compile -------------------------------------------------------------------------------------


def _define_compile(values: flags.FlagValues) -> None:
    config_flag(values)
    string_flag(values, "topology", None, "Chip and shape of the slice, such as v5e:2x2.")
    text = "Examples a step on each chip; 0 divides train.batch_size."
    integer_flag(values, "batch_per_chip", 0, text, 0)
    text = "Compiles some more, to find the largest batch that fits."
    flags.DEFINE_bool("largest_batch", False, text, flag_values=values)
    text = "File for the compiled step, for `bonescan train --executable` on the real slice."
    string_flag(values, "out", None, text)


def _run_compile(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.aot.compile import compile_for

    refuse_positionals(rest)
    config = read_config(values)
    require(values, "topology")
    out = Path(values.out) if values.out else None
    return compile_for(config, values.topology, values.batch_per_chip, values.largest_batch, out)


VERBS = {
    "phantom": Verb(
        "phantom --out=DIR --patients=N --seed=S [--layout=bs80k|dicom]",
        "Simulates patients in the layout of BS-80K or as DICOM, with the truth beside them.\n\n"
        "OUT gets wholeBodyANT/, wholeBodyPOST/ (JPEG), ant/, post/ (VOC XML) and label files, or\n"
        "PATIENT/1.dcm (and 2.dcm where the views lie in two files) in many encodings; and truth/\n"
        "(counts, masks, boxes, gains as .npz).\n\n"
        "With --validate instead of --out it prints how near the patients come to real scans:\n"
        "the table of docs/phantom.md.",
        _define_phantom,
        _run_phantom,
    ),
    "prepare": Verb(
        "prepare --config=FILE [--source=ZIP|DIR] [--data_dir=DIR]",
        "Checks scans laid out as BS-80K and writes them as ArrayRecord, split by patient.\n\n"
        "What is wrong is repaired or skipped, and a table says what and why; --strict refuses\n"
        "it with a sentence each. The data set appears whole or not at all.\n"
        "Without --source, a config of the phantom simulates --patients and keeps no files.",
        _define_prepare,
        _run_prepare,
    ),
    "inspect": Verb(
        "inspect FILE|DIR …",
        "Tells what scans hold: kind, view, size, gain, overflow, counts and boxes.\n\n"
        "One row a scan on standard error. Gains of 8-bit images are estimated, and counts with\n"
        "them; a file that cannot be read is a row with the reason, and the exit code is 2.",
        lambda values: None,  # no flags
        _run_inspect,
    ),
    "train": Verb(
        "train --config=FILE --workdir=DIR [--config.KEY=VALUE …]",
        "Trains a network; continues the run that the workdir holds.\n\n"
        "The workdir gets config.json, checkpoints/, metrics.jsonl and tensorboard/. Each process\n"
        "of a job of several runs this same command; docs/clusters.md says how clusters start it.\n"
        "\n"
        "On SIGTERM or SIGINT (Ctrl-C) it saves and exits with code 75: the same command goes on\n"
        "from there. A second signal ends it at once; what was saved before stays.",
        _define_train,
        _run_train,
    ),
    "crossvalidate": Verb(
        "crossvalidate --config=FILE --workdir=DIR [--config.KEY=VALUE …]",
        "Trains and tests one run a fold; scores every patient by the run that never saw it.\n\n"
        "The runs are WORKDIR/fold_0 …; what is there is continued. data.num_folds says how many:\n"
        "`bonescan prepare` dealt the patients. Signals are treated as in `bonescan train`.",
        _define_crossvalidate,
        _run_crossvalidate,
    ),
    "evaluate": Verb(
        "evaluate --workdir=DIR [--split=test]",
        "Scores a trained network on whole scans, beside a brightness threshold.\n\n"
        "The workdir gets evaluation/SPLIT.json: Dice and IoU per class, head and convention,\n"
        "lesion sensitivity (FROC) and the image-level AUC; of a network that classifies the AUC\n"
        "and the score of every image.",
        _define_evaluate,
        _run_evaluate,
    ),
    "predict": Verb(
        "predict --workdir=DIR --input=FILE|DIR [--out=DIR]",
        "Finds hot spots on JPEG, PNG or DICOM scans.\n\n"
        "Each view gets NAME_mask.png (0 background, 1 abnormal, 2 normal), NAME_overlay.png\n"
        "and NAME.json with boxes and scores.",
        _define_predict,
        _run_predict,
    ),
    "report": Verb(
        "report --workdir=DIR",
        "Gathers scores, curves and pictures of a run into one page, report.html.",
        workdir_flag,
        _run_report,
    ),
    "benchmark": Verb(
        "benchmark --config=FILE --what=step|input|loop|inference [--peer=torch]",
        "Measures this program, side by side with others in the same run.\n\n"
        "step: the training step on synthetic crops, in float32 and bfloat16, its share of the\n"
        "best matrix product; with --peer=torch also MONAI's and a plain PyTorch UNet++.\n"
        "input: images a second from prepared records to batches, on one core and on all, then\n"
        "with augmentation on the device; with --peer=torch also a PyTorch and a MONAI loader on\n"
        "the same images.\n"
        "loop: training with data, logging and checkpoints over its step alone.\n"
        "inference: whole synthetic scans at the levels L1 to L4.\n"
        "input and loop need prepared data; all need a machine that does nothing else.",
        _define_benchmark,
        _run_benchmark,
    ),
    "compile": Verb(
        "compile --config=FILE --topology=v5e:2x2 [--largest_batch] [--out=FILE]",
        "Compiles the training step for a TPU slice that is not there.\n\n"
        "Says what XLA expects of it: memory, cycles by kind of operation and part of the step,\n"
        "images a second, bytes between chips. Estimates, not measurements; docs/tpu.md says\n"
        "what they cover. Needs the extra `tpu` and some minutes.",
        _define_compile,
        _run_compile,
    ),
}
