"""Parses annotations: image labels (BS-80K's <folder>.txt) and boxed hot spots (Pascal VOC, COCO).

The parsers return what they could make of the file and every defect in it.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any
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


def parse_boxes(
    data: bytes,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    labels: Mapping[str, int] = LABELS,
) -> tuple[tuple[Box, ...] | None, list[Defect]]:
    """Reads annotation/object/{name, bndbox/{xmin, ymin, xmax, ymax}} of a view.

    Args:
        data: the XML file.
        size: height and width of the view in pixels.
        labels: the class of each name of an object.

    Returns:
        The boxes, or None where the annotation is not known: XML that cannot be parsed, made for
        another image size, or with a hot spot of unknown class or place. A box with its sides in
        the wrong order, partly outside or in fractions of a pixel is repaired; one that holds no
        pixel of the image is left out.
    """
    unusable = "annotation cannot be read"
    try:
        annotation = _parse_xml(data)
        _check_annotation(annotation, size)
        hot_spots = [
            _parse_hot_spot(number, hot_spot, size, labels)
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


def _check_annotation(annotation: Element, size: tuple[int, int]) -> None:
    if annotation.tag != "annotation":
        raise ValueError(f"root is {_quote(annotation.tag)}, expected 'annotation'")
    for side, expected in (("width", size[1]), ("height", size[0])):
        found = annotation.findtext(f"size/{side}")
        if found is not None and found.strip() != str(expected):
            raise ValueError(f"size/{side} is {_quote(found)}, expected {expected}")


def _parse_hot_spot(
    number: int, hot_spot: Element, size: tuple[int, int], labels: Mapping[str, int]
) -> tuple[Box | None, list[Defect]]:
    """The box of an <object>; None where it holds no pixel of the image."""
    name = (hot_spot.findtext("name") or "").strip()
    if name not in labels:
        expected = " or ".join(labels)
        raise ValueError(f"object {number}: name is {_quote(name)}, expected {expected}")
    written = [(hot_spot.findtext(f"bndbox/{side}") or "").strip() for side in _SIDES]
    if not all(re.fullmatch(r"[+-]?\d+(\.\d*)?", side, re.ASCII) for side in written):
        found = ", ".join(map(_quote, written))
        raise ValueError(f"object {number}: bndbox is {found}, expected four numbers")
    sides = ", ".join(
        f"{side} {_shorten(text)}" for side, text in zip(_SIDES, written, strict=True)
    )
    reasons = ["box in fractions of a pixel"] if any("." in side for side in written) else []
    xmin, ymin, xmax, ymax = map(float, written)
    place = f"object {number}: bndbox is {sides}"
    return _whole_box(place, (xmin, ymin, xmax, ymax), size, labels[name], reasons)


def _whole_box(
    place: str,
    sides: tuple[float, float, float, float],
    size: tuple[int, int],
    label: int,
    reasons: list[str],
) -> tuple[Box | None, list[Defect]]:
    """A box of whole pixels inside the image; None where it holds none of them.

    Args:
        place: where and what was found, for a sentence.
        sides: xmin, ymin, xmax, ymax.
        size: height and width of the image.
        label: of the box.
        reasons: of repairs that are known of already.
    """
    (height, width), (xmin, ymin, xmax, ymax) = size, sides
    phrase = (
        f"{place}, expected whole numbers with "
        f"0 <= xmin < xmax <= {width} and 0 <= ymin < ymax <= {height}"
    )
    reasons = list(reasons)
    if xmin > xmax or ymin > ymax:
        reasons.append("box with sides in reversed order")
    (xmin, xmax), (ymin, ymax) = sorted((xmin, xmax)), sorted((ymin, ymax))
    box = Box(
        math.floor(_clip(xmin, width)),
        math.floor(_clip(ymin, height)),
        math.ceil(_clip(xmax, width)),
        math.ceil(_clip(ymax, height)),
        label,
    )
    if box.xmin == box.xmax or box.ymin == box.ymax:
        return None, [Defect(SKIPPED, "box without a pixel of the image", phrase)]
    if xmin < 0 or ymin < 0 or xmax > width or ymax > height:
        reasons.append("box partly outside of the image")
    return box, [Defect(REPAIRED, reason, phrase) for reason in reasons]


class CocoImage:
    """The boxes that a COCO file has for one image; parsed when the image's size is known."""

    def __init__(self, size: tuple[Any, Any], boxes: list[tuple[str, int, list[Any]]]) -> None:
        self._size = size  # height and width as the file has them, None where it has not
        self._boxes = boxes  # where it stands, label, [x, y, width, height]

    def boxes(self, size: tuple[int, int]) -> tuple[tuple[Box, ...] | None, list[Defect]]:
        """What `parse_boxes` returns, of an image of this height and width."""
        found: list[tuple[Box | None, list[Defect]]] = []
        for side, declared, expected in zip(("height", "width"), self._size, size, strict=True):
            if declared is not None and declared != expected:
                phrase = f"{side} in the COCO file is {declared}, expected {expected}"
                return None, [Defect(SKIPPED, "annotation cannot be read", phrase)]
        for place, label, (x, y, width, height) in self._boxes:
            # Fractions are usual in COCO: the box grows to whole pixels.
            found.append(_whole_box(place, (x, y, x + width, y + height), size, label, []))
        return tuple(box for box, _ in found if box), [each for _, some in found for each in some]


def parse_coco(data: bytes, labels: Mapping[str, int]) -> dict[str, CocoImage]:
    """Reads images, categories and annotations (bbox) of COCO JSON; polygons are not used.

    Args:
        data: the file.
        labels: the class of each name of a category.

    Returns:
        What is annotated on each image, by its file_name.

    Raises:
        ValueError: what is wrong with the file, to be written after its name. Nothing of such a
            file can be trusted, as what cannot be read may belong to any image.
    """
    try:
        content = json.loads(data)
        names = {category["id"]: category["name"] for category in content["categories"]}
        images = {image["id"]: image for image in content["images"]}
        boxes: dict[Any, list[tuple[str, int, list[Any]]]] = {number: [] for number in images}
        for annotation in content["annotations"]:
            number, name = annotation["id"], names[annotation["category_id"]]
            if name not in labels:
                raise ValueError(f"category is {_quote(str(name))}, expected {' or '.join(labels)}")
            box = annotation["bbox"]
            if len(box) != 4 or not all(
                isinstance(side, int | float) and math.isfinite(side) for side in box
            ):
                raise ValueError(f"annotation {number}: bbox is no four numbers, expected them")
            place = f"annotation {number}: bbox is {_shorten(str(box))}"
            boxes[annotation["image_id"]].append((place, labels[name], box))
        return {
            str(image["file_name"]): CocoImage(
                (image.get("height"), image.get("width")), boxes[number]
            )
            for number, image in images.items()
        }
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = _shorten(f"{type(error).__name__} {error}")
        raise ValueError(
            f"is no COCO file ({reason}), expected images, categories and annotations"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError("cannot be read as JSON, expected a COCO file") from error


def _clip(value: float, limit: int) -> float:
    return min(max(value, 0.0), float(limit))


def _quote(text: str) -> str:
    return f"'{_shorten(text.strip())}'"


def _shorten(text: str) -> str:
    """Part of a file for a sentence: short, one line, printable."""
    return printable(text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}...")
