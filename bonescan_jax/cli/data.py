"""Verbs that make and look at data: phantom, prepare, inspect, deidentify."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from bonescan_jax.cli.flags import (
    config_flag,
    integer_flag,
    read_config,
    refuse_positionals,
    require,
    string_flag,
)
from bonescan_jax.cli.verb import Verb, finish
from bonescan_jax.cluster.cores import usable_cores
from bonescan_jax.errors import InputError

# ---- phantom -------------------------------------------------------------------------------------


def _define_phantom(values: flags.FlagValues) -> None:
    string_flag(values, "out", None, "Folder to write; must not hold anything yet.")
    flags.DEFINE_enum("layout", "bs80k", ["bs80k", "dicom"], "Kind of files.", flag_values=values)
    integer_flag(values, "patients", 200, "How many patients.", 1)
    integer_flag(values, "seed", 0, "Patient n of a seed is always the same.", 0)
    integer_flag(
        values,
        "processes",
        usable_cores(),
        "Patients simulated at once.",
        1,
    )
    _define_class_rule(values)
    text = "Writes no files: compares the patients with figures measured on real scans."
    flags.DEFINE_bool("validate", False, text, flag_values=values)


def _define_class_rule(values: flags.FlagValues) -> None:
    text = (
        "What is Abnormal in simulated patients: bs80k: what BS-80K's readers called benign, "
        "uncertain or malignant; malignant: that alone."
    )
    flags.DEFINE_enum("class_rule", "bs80k", ["bs80k", "malignant"], text, flag_values=values)


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
            rule=values.class_rule,
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
    string_flag(values, "source", None, "Folder or zip file of scans.")
    string_flag(values, "data_dir", None, "Where to put it; default: data.dir of the config.")
    integer_flag(
        values, "patients", 200, "To simulate, where data.name is phantom without source.", 3
    )
    integer_flag(values, "seed", 0, "Of the simulated patients.", 0)
    _define_class_rule(values)
    integer_flag(values, "processes", usable_cores(), "That simulate and unwrap.", 1)
    flags.DEFINE_bool(
        "strict", False, "Refuse what would be repaired or skipped.", flag_values=values
    )
    flags.DEFINE_bool(
        "keep_known_defects",
        False,
        "Also use images of BS-80K known to be wrong or from another kind of study.",
        flag_values=values,
    )
    _define_own_scans(values)


def _define_own_scans(values: flags.FlagValues) -> None:
    """Flags of prepare for data.name=folder."""
    string_flag(
        values,
        "classes",
        None,
        "Of own scans: what the names in annotations mean, NAME:abnormal,NAME:normal …",
    )
    flags.DEFINE_enum(
        "unannotated",
        "skip",
        ["skip", "empty"],
        "Of own scans: one without annotation is left out, or holds no hot spots.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "unwrap", False, "Of own scans: 8-bit grey values wrapped past 255.", flag_values=values
    )


def _read_classes(text: str | None) -> dict[str, str]:
    """NAME:abnormal,NAME:normal … to the class of each name."""
    pairs = [pair.rpartition(":") for pair in (text or "").split(",") if pair.strip()]
    if any(not name.strip() for name, _, _ in pairs):
        raise InputError(f"--classes: found {text!r}, expected NAME:abnormal,NAME:normal …")
    return {name.strip(): of_class.strip() for name, _, of_class in pairs}


def _run_prepare(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.datasets.bs80k import BS80K, prepare
    from bonescan_jax.datasets.folder import Folder
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
        "num_processes": values.processes,
    }
    simulating, checking = Progress("simulate patients", values.patients), Progress("check files")
    preparing = Progress("prepare views")
    with contextlib.ExitStack() as bars:  # one at a time

        def show_checks(done: int, total: int) -> None:
            if done == 1:
                bars.close()
                bars.enter_context(checking)
            checking.advance_to(done, total)

        def show_findings(read: dict[str, int], findings: Sequence[Finding]) -> None:
            bars.close()
            print_findings(read, findings)
            bars.enter_context(preparing)

        settings["on_file"], settings["on_checked"] = show_checks, show_findings
        settings["on_scan"] = preparing.advance_to
        if not values.source and data.name == "phantom":
            bars.enter_context(simulating)
            return prepare_phantom(
                data_dir,
                num_patients=values.patients,
                seed=values.seed,
                on_patient=lambda patient: simulating.advance(),
                rule=values.class_rule,
                **settings,
            )
        require(values, "source")
        settings["strict"] = values.strict
        settings["keep_known_defects"] = values.keep_known_defects
        builder = {"bs80k": BS80K, "phantom": Phantom, "regions": Regions, "folder": Folder}[
            data.name
        ]
        if data.name == "folder":
            settings["options"] = {
                "classes": _read_classes(values.classes),
                "unannotated": values.unannotated,
                "unwrap": values.unwrap,
            }
        return prepare(Path(values.source), data_dir, builder=builder, **settings)


# ---- inspect -------------------------------------------------------------------------------------


def _run_inspect(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.inspect import inspect_files

    if not rest:
        raise InputError("found no FILE or DIR, expected at least one; see --help")
    return finish(*inspect_files([Path(name) for name in rest]))


# ---- deidentify ----------------------------------------------------------------------------------


def _run_deidentify(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.runs.progress import Progress
    from bonescan_jax.scans.deidentify import deidentify_files

    if len(rest) != 2:
        raise InputError(f"found {len(rest)} paths, expected IN and OUT; see --help")
    with Progress("de-identify") as progress:
        source, out = map(Path, rest)
        result, problems = deidentify_files(source, out, progress.advance_to)
    if problems:
        print(json.dumps(result), flush=True)  # the others have been written
        raise InputError("\n".join(problems))
    return result


VERBS = {
    "phantom": Verb(
        "phantom --out=DIR --patients=N --seed=S [--layout=bs80k|dicom]",
        "Simulates patients in the layout of BS-80K or as DICOM, with the ground truth.\n\n"
        "OUT gets wholeBodyANT/, wholeBodyPOST/ (JPEG), ant/, post/ (VOC XML) and label files, or\n"
        "PATIENT/1.dcm (and 2.dcm where the views lie in two files) in many encodings; and truth/\n"
        "(counts, masks, boxes, gains as .npz).\n\n"
        "With --validate instead of --out it compares the patients with real scans:\n"
        "the table of docs/phantom.md.",
        _define_phantom,
        _run_phantom,
    ),
    "prepare": Verb(
        "prepare --config=FILE [--source=ZIP|DIR] [--data_dir=DIR]",
        "Checks scans and writes them as ArrayRecord, split by patient.\n\n"
        "They are laid out as BS-80K, or with --config.data.name=folder are NM DICOM, PNG or JPEG\n"
        "beside VOC XML, COCO JSON or mask PNGs: README.md, Your own scans.\n"
        "What is wrong is repaired or skipped, and a table says what and why; --strict refuses\n"
        "it with a sentence each. The data set is written atomically.\n"
        "Without --source, a config of the phantom simulates --patients and keeps no files.",
        _define_prepare,
        _run_prepare,
    ),
    "inspect": Verb(
        "inspect FILE|DIR …",
        "Shows what scans hold: kind, view, size, gain, overflow, counts and boxes.\n\n"
        "One row a scan on standard error. Gains of 8-bit images are estimated, and counts with\n"
        "them; a file that cannot be read is a row with the reason, and the exit code is 2.",
        lambda values: None,  # no flags
        _run_inspect,
    ),
    "deidentify": Verb(
        "deidentify IN OUT",
        "Writes NM DICOM without what tells of a person or place: IN is a file or a folder.\n\n"
        "OUT must not exist. It keeps counts, views and geometry, and nothing that is not on a\n"
        "short list (PS3.15, Annex E): no names, dates, free text or private elements. UIDs are\n"
        "new; those that were equal in one call stay equal. Of a folder OUT gets 1.dcm, 2.dcm …,\n"
        "as file names often hold a person's. Pixels stay: Secondary Capture is refused unless\n"
        "Burned In Annotation is NO, and any file where it is YES. A refused file is a sentence\n"
        "with the reason, the others are written, and the exit code is 2. Look at the result\n"
        "before it leaves the house.",
        lambda values: None,  # no flags
        _run_deidentify,
    ),
}
