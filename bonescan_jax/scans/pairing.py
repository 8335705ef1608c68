"""Which views of all files show one patient at one time: for `inspect` and `predict` alike."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.dicom import pair_views
from bonescan_jax.scans.files import ViewHeader, bs80k_folder
from bonescan_jax.scans.listing import image_stem


def pair_headers(headers: Sequence[ViewHeader]) -> list[tuple[ViewHeader, ViewHeader]]:
    """Finds the anterior and the posterior view of each patient, each view at most once.

    DICOM tells by its identifiers, see `pair_views`, in whatever folders the files lie; whole-body
    images in BS-80K's two folders, side by side, have the patient's id as their name. Where there
    are several of a view, nothing is guessed.

    Args:
        headers: of all files at once.

    Returns:
        Anterior and posterior view of each pair.
    """
    by_frame = {id(header.frame): header for header in headers if header.frame}
    frames, _ = pair_views([header.frame for header in headers if header.frame])
    pairs = [(by_frame[id(anterior)], by_frame[id(posterior)]) for anterior, posterior in frames]
    by_patient = defaultdict(list)
    for header in headers:
        region, _ = bs80k_folder(header.file.path) or (None, None)
        if region == "wholeBody" and not header.frame:
            path = Path(os.path.abspath(header.file.path))
            by_patient[path.parent.parent, image_stem(path.name)].append(header)
    for members in by_patient.values():
        by_view = {header.view: header for header in members}
        if len(members) == 2 and by_view.keys() == set(VIEWS):
            pairs.append((by_view["anterior"], by_view["posterior"]))
    return pairs
