"""Shows what scans hold: kind, view, size, gain, overflow, counts and boxes; no network."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rich.box
import rich.console
import rich.table
import rich.text

from bonescan_jax.cluster.cores import usable_cores
from bonescan_jax.errors import InputError
from bonescan_jax.runs.progress import Progress
from bonescan_jax.scans import ABNORMAL, NORMAL
from bonescan_jax.scans.annotations import parse_boxes
from bonescan_jax.scans.bs80k import XML_FOLDERS
from bonescan_jax.scans.dicom import DicomFrame, read_bytes
from bonescan_jax.scans.export import has_export_sum, scan_doubt, sum_doubt
from bonescan_jax.scans.files import FileView, ViewHeader, bs80k_folder, decode_image
from bonescan_jax.scans.findings import SKIPPED, printable
from bonescan_jax.scans.listing import ImageFile, image_stem, list_image_files
from bonescan_jax.scans.pairing import pair_headers

LOG_WIDTH = 160  # columns of the table where there is no terminal


class ScanRow(NamedTuple):
    """The figures of one scan."""

    kind: str  # jpeg, png or dicom
    layout: str | None  # "BS-80K whole body", "BS-80K crop", or None: neither
    view: str | None  # one of VIEWS
    size: tuple[int, int]  # height, width in pixels
    gain: float  # grey values per count
    overflowed_pixels: int  # that had wrapped
    counts: int  # sum of the pixels, divided by the gain
    boxes_abnormal: int | None  # None: nobody annotated it
    boxes_normal: int | None
    note: str  # anything unusual about it
    frame: DicomFrame | None  # of DICOM; without its pixels


class FileReport(NamedTuple):
    """The scans of one file, or why it cannot be read."""

    path: Path | None  # None: its name is in the sentence only
    scans: tuple[ScanRow, ...]
    headers: tuple[ViewHeader, ...]  # one a scan
    problem: str | None  # one sentence


def inspect_files(sources: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
    """Reads every image file and prints a table of their scans on standard error.

    Args:
        sources: files, and folders to be searched.

    Returns:
        How many `files` and `scans` there are, how many scans overflowed (`overflowed`) or have
        notes (`noted`), how many `pairs` the views make, and how many files are
        `unreadable`; of a single file also what `ScanRow` holds, as lists if it has several scans.
        And a sentence for each unreadable file.

    Raises:
        InputError: there is no such path, or a folder without image files.
    """
    listings = [list_image_files(source) for source in sources]
    files = list(dict.fromkeys(file for listing in listings for file in listing.files))
    reports = [
        FileReport(None, (), (), finding.sentence)
        for listing in listings
        for finding in listing.findings
        if finding.outcome == SKIPPED
    ]
    # Decoding and arithmetic on arrays leave the interpreter free.
    with Progress("inspect", len(files)) as progress, ThreadPoolExecutor(usable_cores()) as pool:
        for report in pool.map(inspect_file, files):
            reports.append(report)
            progress.advance()
    reports = _with_sums(reports)
    _print_table(reports)
    scans = [scan for report in reports for scan in report.scans]
    problems = [report.problem for report in reports if report.problem]
    pairs = pair_headers([header for report in reports for header in report.headers])
    result = {
        "files": len(reports),
        "scans": len(scans),
        "overflowed": sum(scan.overflowed_pixels > 0 for scan in scans),
        "noted": sum(bool(scan.note) for scan in scans),
        "pairs": len(pairs),
        "unreadable": len(problems),
    }
    if len(reports) == 1 and scans:
        result |= _describe(scans)
    return result, problems


def _with_sums(reports: Sequence[FileReport]) -> list[FileReport]:
    """Notes where the grey values of BS-80K's views do not add up to the export's constant."""

    def grey_sum(scan: ScanRow) -> float | None:
        whole = scan.layout == "BS-80K whole body" and scan.kind == "jpeg"
        return scan.counts * scan.gain if whole else None

    sums = [found for report in reports for scan in report.scans if (found := grey_sum(scan))]
    if not has_export_sum(sums):
        return list(reports)

    def noted(scan: ScanRow) -> ScanRow:
        found = grey_sum(scan)
        doubt = sum_doubt(found) if found else None
        return scan._replace(note="; ".join(filter(None, [scan.note, doubt])))

    return [report._replace(scans=tuple(map(noted, report.scans))) for report in reports]


def inspect_file(file: ImageFile) -> FileReport:
    """Reads one file; what keeps it from being read becomes part of the report."""
    path = file.path
    try:
        views = decode_image(file.read(), path)
        headers = tuple(
            ViewHeader(file, number, view.name, view.view, _without_pixels(view.frame))
            for number, view in enumerate(views)
        )
        scans = tuple(_inspect_view(path, view, views) for view in views)
        return FileReport(path, scans, headers, None)
    except InputError as error:
        return FileReport(path, (), (), str(error))


def _inspect_view(path: Path, view: FileView, views: Sequence[FileView]) -> ScanRow:
    region, _ = bs80k_folder(path) or (None, None)
    abnormal, normal, note = None, None, ""
    if view.frame:
        note = _compare_counts(views)
    elif region == "wholeBody":
        abnormal, normal, note = _count_boxes(path, view)
        if view.kind == "jpeg":
            note = "; ".join(filter(None, [note, scan_doubt(view.pixels)]))
    note = "; ".join(filter(None, [note, *view.notes]))
    crop = None if region is None else "BS-80K crop"
    return ScanRow(
        kind=view.kind,
        layout="BS-80K whole body" if region == "wholeBody" else crop,
        view=view.view,
        size=(view.region.height, view.region.width),
        gain=round(view.gain, 3),
        overflowed_pixels=view.overflowed,
        counts=round(float(view.pixels.sum(dtype=np.float64)) / view.gain),
        boxes_abnormal=abnormal,
        boxes_normal=normal,
        note=note,
        frame=_without_pixels(view.frame),
    )


def _without_pixels(frame: DicomFrame | None) -> DicomFrame | None:
    """The same frame with pixels that take no memory: a folder may hold thousands."""
    return frame and frame._replace(pixels=np.broadcast_to(np.float32(0), frame.pixels.shape))


def _compare_counts(views: Sequence[FileView]) -> str:
    """What a DICOM file declares as its sum may differ from it, if the pixels were changed."""
    frame = views[0].frame
    declared = frame and frame.counts_accumulated
    found = sum(float(view.pixels.sum(dtype=np.float64)) for view in views)
    if declared is None or declared == found:
        return ""
    return f"Counts Accumulated is {declared:,}, the pixels sum to {found:,.0f}"


def _count_boxes(path: Path, view: FileView) -> tuple[int | None, int | None, str]:
    """Abnormal and normal boxes beside a whole-body image; a view without an XML file has none."""
    assert view.view is not None  # the folder of BS-80K says it
    folder = path.parent / XML_FOLDERS[view.view]
    xml = folder / f"{image_stem(path.name)}.xml"
    if not folder.is_dir():
        return None, None, ""
    if not xml.is_file():
        return 0, 0, ""
    boxes, defects = parse_boxes(read_bytes(xml))
    if boxes is None:
        raise InputError(f"{printable(str(xml))}: {defects[0].phrase}.")
    labels = [box.label for box in boxes]
    note = "; ".join(f"{xml.name}: {defect.phrase}" for defect in defects)
    return labels.count(ABNORMAL), labels.count(NORMAL), note


def _describe(scans: Sequence[ScanRow]) -> dict[str, Any]:
    """What JSON says of the scans of one file: values, or lists of them."""
    fields = [field for field in ScanRow._fields if field != "frame"]
    columns = {field: [getattr(scan, field) for scan in scans] for field in fields}
    return {field: values[0] if len(scans) == 1 else values for field, values in columns.items()}


def _print_table(reports: Sequence[FileReport]) -> None:
    table = rich.table.Table("file", "kind", "view", "size", box=rich.box.SIMPLE_HEAD)
    for column in ("gain", "overflowed", "counts", "abnormal", "normal"):
        table.add_column(column, justify="right")
    table.add_column("note")
    table.columns[0].overflow = "fold"
    for report in reports:
        # Text: a name may hold what rich takes for a colour.
        name = rich.text.Text(printable(str(report.path or "")))
        if report.problem:
            reason = report.problem.removeprefix(f"{name.plain}: ")
            table.add_row(name, "unreadable", *[""] * 7, rich.text.Text(reason))
        for scan in report.scans:
            table.add_row(name, *_cells(scan), rich.text.Text(scan.note))
    console = rich.console.Console(stderr=True)
    if not console.is_terminal:  # a log file has no width of its own
        console.width = LOG_WIDTH
    console.print(table)


def _cells(scan: ScanRow) -> list[str]:
    boxes = (scan.boxes_abnormal, scan.boxes_normal)
    return [
        f"{scan.kind}, {scan.layout}" if scan.layout else scan.kind,
        (scan.view or "unknown") + (_energy(scan.frame) if scan.frame else ""),
        "x".join(map(str, scan.size)),
        f"{scan.gain:.2f}",
        f"{scan.overflowed_pixels:,}",
        f"{scan.counts:,}",
        *("" if count is None else str(count) for count in boxes),
    ]


def _energy(frame: DicomFrame) -> str:
    """Which energy window, if it can be told from others."""
    if frame.energy_range:
        return ", {:g}-{:g} keV".format(*frame.energy_range)
    return f", window {frame.energy_window}" if frame.energy_window > 1 else ""
