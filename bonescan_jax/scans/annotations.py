"""Parses BS-80K's annotations: image labels (<folder>.txt) and boxed hot spots (Pascal VOC XML).

Both parsers return what they could read and every defect, a phrase to be written after the file's
name: field, found, expected.
"""

import re
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, WIDTH, Box

LABELS = {"Abnormal": ABNORMAL, "Normal": NORMAL}  # <name> of an <object>


def parse_labels(data: bytes) -> tuple[dict[int, bool], list[str]]:
    """Reads lines '<id>.jpg 0|1', separated by any white space: is the image abnormal?"""
    labels: dict[int, bool] = {}
    defects = []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*([1-9]\d*)\.jpg\s+([01])\s*", line, re.ASCII)
        if match is None:
            defects.append(
                f"line {number} is {line.strip()!r}, expected '<id>.jpg 0' or '<id>.jpg 1'"
            )
        elif int(match[1]) in labels:
            defects.append(f"line {number} names {match[1]}.jpg again, expected it once")
        else:
            labels[int(match[1])] = match[2] == "1"
    return labels, defects


def parse_boxes(data: bytes) -> tuple[tuple[Box, ...], list[str]]:
    """Reads annotation/object/{name, bndbox/{xmin, ymin, xmax, ymax}} of a 256x1024 view."""
    try:
        annotation = ElementTree.fromstring(data)
    except DefusedXmlException:
        return (), ["declares XML entities, expected Pascal VOC without any"]
    except (ParseError, LookupError, ValueError) as error:  # the latter two: its encoding
        return (), [f"is no well-formed XML ({error}), expected Pascal VOC"]
    if annotation.tag != "annotation":
        return (), [f"root is <{annotation.tag}>, expected <annotation>"]
    defects = []
    for side, expected in (("width", WIDTH), ("height", HEIGHT)):
        found = annotation.findtext(f"size/{side}")
        if found is not None and found.strip() != str(expected):
            defects.append(f"size/{side} is {found.strip()!r}, expected {expected}")
    boxes = []
    for number, hot_spot in enumerate(annotation.findall("object"), 1):
        box, wrong = _parse_box(hot_spot)
        boxes += [] if wrong else [box]
        defects += [f"object {number}: {defect}" for defect in wrong]
    return tuple(boxes), defects


def _parse_box(hot_spot: Element) -> tuple[Box | None, list[str]]:
    defects = []
    name = (hot_spot.findtext("name") or "").strip()
    if name not in LABELS:
        defects.append(f"name is {name!r}, expected {' or '.join(LABELS)}")
    sides = [
        (hot_spot.findtext(f"bndbox/{side}") or "").strip()
        for side in ("xmin", "ymin", "xmax", "ymax")
    ]
    if not all(re.fullmatch(r"[+-]?\d+", side, re.ASCII) for side in sides):
        return None, [*defects, f"bndbox is {sides}, expected four whole numbers"]
    xmin, ymin, xmax, ymax = map(int, sides)
    if not (0 <= xmin < xmax <= WIDTH and 0 <= ymin < ymax <= HEIGHT):
        defects.append(
            f"bndbox is xmin {xmin}, ymin {ymin}, xmax {xmax}, ymax {ymax}, expected "
            f"0 <= xmin < xmax <= {WIDTH} and 0 <= ymin < ymax <= {HEIGHT}"
        )
    return Box(xmin, ymin, xmax, ymax, LABELS.get(name, ABNORMAL)), defects
