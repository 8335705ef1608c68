"""The masks of every predictor, class by class and in every convention, as tables."""

from typing import Any

from bonescan_jax.report.parts import interval, number, table
from bonescan_jax.scans import CLASSES

SCORES = {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall"}
CONVENTIONS = {
    "pooled": "over the pixels of all images together",
    "per_image": "mean over the images that hold the class",
    "per_image_with_false_positives": "mean over the images that hold the class or where it was "
    "predicted: one with nothing but a false alarm counts 0",
    "per_image_with_empty": "mean over all images: one that holds nothing and where nothing was "
    "predicted counts 1, one with nothing but a false alarm 0",
}
LESIONS = {
    "dice": "Dice",
    "surface_dice": "surface Dice, 1 pixel",
    "surface_distance_mm": "surface distance, mm",
}
WORDS = {
    "mean": "mean of the heads",
    "threshold": "brightness threshold",
    "ensemble": "all networks together",
}
NOTE = (
    "These conventions alone make a factor of two between published Dice. The brightness threshold "
    "is a detector without learning, one for each class. Of lesions, those that no predicted hot "
    "spot overlaps count 0, and have no distance. A dash: not defined."
)


def masks_part(evaluation: dict[str, Any]) -> str:
    """A table a class and convention; all but the pooled ones folded."""
    parts = ["<h3>Masks</h3>"]
    for name in CLASSES[1:]:
        images = number((evaluation.get("images_with_class") or {}).get(name), 0)
        pooled, *others = (
            _table(
                evaluation, name, convention, f"{name.capitalize()}, in {images} images: {words}"
            )
            for convention, words in CONVENTIONS.items()
        )
        parts.append(f"{pooled}<details><summary>{name.capitalize()}, means over images</summary>")
        parts.append(f"{''.join(others)}</details>")
    return "".join((*parts, _lesions(evaluation), f'<p class="note">{NOTE}</p>'))


def _table(evaluation: dict[str, Any], name: str, convention: str, title: str) -> str:
    rows = [
        (
            predictor_name(predictor, evaluation.get("selected")),
            [interval(scores[name][convention][score]) for score in SCORES],
        )
        for predictor, scores in evaluation["masks"].items()
    ]
    return f"<p>{title}</p>{table(title, ['Predictor', *SCORES.values()], rows)}"


def _lesions(evaluation: dict[str, Any]) -> str:
    drawn = evaluation["masks"].get(evaluation.get("selected")) or {}
    rows = [
        (name, [interval(drawn[name]["lesions"][score]) for score in LESIONS])
        for name in CLASSES[1:]
        if "lesions" in drawn.get(name, {})
    ]
    title = "Mean over the true lesions, each beside the hot spot that overlaps it most"
    return f"<p>{title}</p>{table(title, ['Class', *LESIONS.values()], rows)}" if rows else ""


def predictor_name(predictor: str, selected: str | None = None) -> str:
    """The name of a predictor in words: "mean of the heads, mirrored (used)"."""
    first, *rest = predictor.split(" ")
    words = ", ".join((WORDS.get(first, first.replace("_", " ")), *rest))
    return f"{words} (used)" if predictor == selected else words
