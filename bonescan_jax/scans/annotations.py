"""Parses BS-80K's annotations: image labels (<folder>.txt) and boxed hot spots (Pascal VOC XML).

Both parsers return what they could make of the file and every defect in it.
"""

import math
import re
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from bonescan_jax.scans import ABNORMAL, HEIGHT, NORMAL, WIDTH, Box
from bonescan_jax.scans.findings import REPAIRED, SKIPPED, Defect, printable

LABELS = {"Abnormal": ABNORMAL, "Normal": NORMAL}  # <name> of an <object>
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_MAX_DEPTH = 32  # of XML; Pascal VOC needs 4
_MAX_QUOTED = 60  # characters of a file that a sentence repeats


def parse_labels(data: bytes) -> tuple[dict[int, bool], list[Defect]]:
    """Reads lines '<id>.jpg 0|1', separated by any white space: is the image abnormal?

    A line that says something else is left out; an id that comes again is abnormal if any of its
    lines says so.
    """
    labels: dict[int, bool] = {}
    defects = []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(0*)([1-9]\d{0,8})\.jpg\s+([01])\s*", line, re.ASCII)
        if match is None:
            phrase = f"line {number} is {_quote(line)}, expected '<id>.jpg 0' or '<id>.jpg 1'"
            defects.append(Defect(SKIPPED, "wrong line of a label file", phrase))
            continue
        patient, abnormal = int(match[2]), match[3] == "1"
        if patient in labels:
            phrase = f"line {number} names {patient}.jpg again, expected it once"
            defects.append(Defect(REPAIRED, "label given twice", phrase))
        elif match[1]:
            phrase = f"line {number} has zeros before the id, expected {patient}.jpg"
            defects.append(Defect(REPAIRED, "id with leading zeros", phrase))
        labels[patient] = labels.get(patient, False) or abnormal
    return labels, defects


def parse_boxes(data: bytes) -> tuple[tuple[Box, ...] | None, list[Defect]]:
    """Reads annotation/object/{name, bndbox/{xmin, ymin, xmax, ymax}} of a 256x1024 view.

    Returns:
        The boxes, or None where the annotation is not known: XML that cannot be parsed, made for
        another image size, or with a hot spot of unknown class or place. A box with its sides in
        the wrong order, partly outside or in fractions of a pixel is repaired; one that holds no
        pixel of the image is left out.
    """
    unusable = "annotation cannot be read"
    try:
        annotation = _parse_xml(data)
        _check_annotation(annotation)
        hot_spots = [
            _parse_hot_spot(number, hot_spot)
            for number, hot_spot in enumerate(annotation.findall("object"), 1)
        ]
    except ValueError as error:
        return None, [Defect(SKIPPED, unusable, str(error))]
    boxes = tuple(box for box, _ in hot_spots if box)
    return boxes, [defect for _, defects in hot_spots for defect in defects]


class _ShallowTreeBuilder(TreeBuilder):
    """Builds a tree of elements that are not nested without end."""

    depth = 0

    def start(self, tag: str, attributes: dict[str, str]) -> Element:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise ParseError(f"nested deeper than {_MAX_DEPTH} elements")
        return super().start(tag, attributes)

    def end(self, tag: str) -> Element:
        self.depth -= 1
        return super().end(tag)


# Chinese annotation tools declare these, which expat does not know; GB 18030 holds them all.
_CHINESE = re.compile(rb"""\s*<\?xml[^>]*encoding=["'](gb2312|gbk|gb18030)["'][^>]*\?>""", re.I)


def _parse_xml(data: bytes) -> Element:
    parser = DefusedXMLParser(target=_ShallowTreeBuilder())
    try:
        if declaration := _CHINESE.match(data):
            data = data[declaration.end() :].decode("gb18030").encode()
        parser.feed(data)
        return parser.close()
    except DefusedXmlException as error:
        raise ValueError("declares XML entities, expected Pascal VOC without any") from error
    except (ParseError, LookupError, ValueError) as error:  # the latter two: its encoding
        reason = _shorten(str(error))
        raise ValueError(f"is not well-formed XML ({reason}), expected Pascal VOC") from error


def _check_annotation(annotation: Element) -> None:
    if annotation.tag != "annotation":
        raise ValueError(f"root is {_quote(annotation.tag)}, expected 'annotation'")
    for side, expected in (("width", WIDTH), ("height", HEIGHT)):
        found = annotation.findtext(f"size/{side}")
        if found is not None and found.strip() != str(expected):
            raise ValueError(f"size/{side} is {_quote(found)}, expected {expected}")


def _parse_hot_spot(number: int, hot_spot: Element) -> tuple[Box | None, list[Defect]]:
    """The box of an <object>; None where it holds no pixel of the image."""
    name = (hot_spot.findtext("name") or "").strip()
    if name not in LABELS:
        expected = " or ".join(LABELS)
        raise ValueError(f"object {number}: name is {_quote(name)}, expected {expected}")
    written = [(hot_spot.findtext(f"bndbox/{side}") or "").strip() for side in _SIDES]
    if not all(re.fullmatch(r"[+-]?\d+(\.\d*)?", side, re.ASCII) for side in written):
        found = ", ".join(map(_quote, written))
        raise ValueError(f"object {number}: bndbox is {found}, expected four numbers")
    sides = ", ".join(
        f"{side} {_shorten(text)}" for side, text in zip(_SIDES, written, strict=True)
    )
    phrase = (
        f"object {number}: bndbox is {sides}, expected whole numbers with "
        f"0 <= xmin < xmax <= {WIDTH} and 0 <= ymin < ymax <= {HEIGHT}"
    )
    xmin, ymin, xmax, ymax = map(float, written)
    reasons = []
    if any("." in side for side in written):
        reasons.append("box in fractions of a pixel")
    if xmin > xmax or ymin > ymax:
        reasons.append("box with sides in reversed order")
    (xmin, xmax), (ymin, ymax) = sorted((xmin, xmax)), sorted((ymin, ymax))
    box = Box(
        math.floor(_clip(xmin, WIDTH)),
        math.floor(_clip(ymin, HEIGHT)),
        math.ceil(_clip(xmax, WIDTH)),
        math.ceil(_clip(ymax, HEIGHT)),
        LABELS[name],
    )
    if box.xmin == box.xmax or box.ymin == box.ymax:
        return None, [Defect(SKIPPED, "box without a pixel of the image", phrase)]
    if xmin < 0 or ymin < 0 or xmax > WIDTH or ymax > HEIGHT:
        reasons.append("box partly outside of the image")
    return box, [Defect(REPAIRED, reason, phrase) for reason in reasons]


def _clip(value: float, limit: int) -> float:
    return min(max(value, 0.0), float(limit))


def _quote(text: str) -> str:
    return f"'{_shorten(text.strip())}'"


def _shorten(text: str) -> str:
    """Part of a file for a sentence: short, one line, printable."""
    return printable(text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}...")
