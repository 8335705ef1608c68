"""Measures how often 95 % intervals hold the true value, on simulated patients.

    python -m tests.accuracy.coverage [--studies=2000] [--draws=1000] [--seed=1]

A study is 100 or 300 patients, half of them abnormal, with 2 images each (the views of a body) or
26 (crops of its regions). What a patient's images have in common is half of the variance of their
scores, so images are far from independent. For each study an interval of

- the AUC of images, by DeLong, who takes images as independent, by Obuchowski, who does not, and by
  resampled patients,
- the sensitivity at one false positive per image, by resampled patients; lesions of a patient are
  all easier or harder to find, and a patient's images have more or fewer false positives,
- the pooled Dice, by resampled patients; areas of lesions are log-normal, so a few rule the ratio.

The true AUC is known; that of the other two is what one study of `MANY` images has. Coverage is the
share of studies whose interval holds it: with 2,000 of them it has a standard error of 0.5 points.
Progress goes to standard error, a table in Markdown and one line of JSON to standard output.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from bonescan_jax.metrics import bootstrap
from bonescan_jax.metrics.classification import roc_auc

MANY = 2_000_000
IMAGES = (2, 26)
PATIENTS = (100, 300)
# Of an abnormal patient's images these are abnormal, one of the two views or three of the crops.
SHARE_ABNORMAL = {2: 0.8, 26: 0.15}
APART = 1.6  # abnormal scores from normal, in standard deviations: an AUC of 0.871
FALSE_CANDIDATES = 4.0  # per image


class Study(NamedTuple):
    """A set of patients and who each image is of."""

    num_patients: int
    patients: np.ndarray  # (images,)
    abnormal: np.ndarray  # (images,) bool
    rng: np.random.Generator

    def shared(self, share: float = 0.5) -> np.ndarray:
        """(images,) the patient's part of a standard normal variable, with so much variance."""
        return np.sqrt(share) * self.rng.normal(size=self.num_patients)[self.patients]

    def normal(self, share: float = 0.5) -> np.ndarray:
        """(images,) standard normal, correlated within patients."""
        own = np.sqrt(1 - share) * self.rng.normal(size=len(self.patients))
        return self.shared(share) + own


def make_study(num_patients: int, images: int, rng: np.random.Generator) -> Study:
    patients = np.repeat(np.arange(num_patients), images)
    ill = rng.random(num_patients) < 0.5
    abnormal = ill[patients] & (rng.random(len(patients)) < SHARE_ABNORMAL[images])
    return Study(num_patients, patients, abnormal, rng)


def scored_images(study: Study) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and patients of all images."""
    return study.normal() + APART * study.abnormal, study.abnormal, study.patients


def sensitivity(study: Study) -> bootstrap.Statistic:
    """Candidates of lesions and of nothing, one lesion or more in each abnormal image."""
    rng = study.rng
    lesions = study.abnormal * (1 + rng.poisson(1.0, len(study.patients)))
    number = rng.poisson(FALSE_CANDIDATES * np.exp(study.shared() - 0.25))
    visible = study.shared()
    hit = np.repeat([True, False], [lesions.sum(), number.sum()])
    image = np.concatenate([
        np.repeat(np.arange(len(lesions)), lesions), np.repeat(np.arange(len(number)), number)
    ])  # fmt: skip
    scores = np.where(hit, 1.6 + visible[image], 0) + rng.normal(0, np.sqrt(0.5), len(image))
    return bootstrap.sensitivity(
        scores,
        hit,
        ~hit,
        study.patients[image],
        lesions=np.bincount(study.patients, lesions, study.num_patients),
        scans=np.bincount(study.patients, minlength=study.num_patients),
        rate=1.0,
    )


def dice(study: Study) -> bootstrap.Statistic:
    """Pixels of a class: found in part where it is, invented in one image of four."""
    rng = study.rng
    true = study.abnormal * np.rint(np.exp(4.2 + study.normal()))
    found = np.rint(true * expit(1 + study.normal()))
    invented = (rng.random(len(true)) < 0.25) * np.rint(np.exp(3.5 + study.normal()))
    counts = np.stack([found, invented, true - found], axis=1)
    return bootstrap.pooled_dice(counts, study.patients, study.num_patients)


def intervals(study: Study, weights: np.ndarray) -> dict[str, bootstrap.Estimate]:
    """One of each method."""
    scores, labels, patients = scored_images(study)
    by_formula = {
        "AUC, DeLong": roc_auc(scores, labels),
        "AUC, Obuchowski": roc_auc(scores, labels, clusters=patients),
    }
    by_resampling = {
        "AUC, bootstrap": bootstrap.auc(scores, labels, patients, study.num_patients),
        "sensitivity at 1, bootstrap": sensitivity(study),
        "Dice, bootstrap": dice(study),
    }
    return {
        **{name: bootstrap.Estimate(*found, None) for name, found in by_formula.items()},
        **{name: bootstrap.estimate(each, weights) for name, each in by_resampling.items()},
    }


def true_values(images: int, seed: int) -> dict[str, float]:
    auc = float(norm.cdf(APART / np.sqrt(2)))

    def of_many(score: Callable[[Study], bootstrap.Statistic]) -> float:
        return score(make_study(MANY // images, images, np.random.default_rng(seed))).value()

    return {
        "AUC, DeLong": auc,
        "AUC, Obuchowski": auc,
        "AUC, bootstrap": auc,
        "sensitivity at 1, bootstrap": of_many(sensitivity),
        "Dice, bootstrap": of_many(dice),
    }


def measure(
    num_patients: int, images: int, studies: int, draws: int, seed: int
) -> list[dict[str, object]]:
    """Coverage and mean half-width of each method, a row each."""
    truth = true_values(images, seed)
    found: dict[str, list[bootstrap.Estimate]] = {name: [] for name in truth}
    weights = bootstrap.draw_weights(num_patients, draws, seed)
    for number in range(studies):
        rng = np.random.default_rng([seed, num_patients, images, number])
        for name, each in intervals(make_study(num_patients, images, rng), weights).items():
            found[name].append(each)
        if number % 500 == 499:
            print(f"{num_patients} patients, {images} images: {number + 1} of {studies} studies",
                  file=sys.stderr, flush=True)  # fmt: skip
    rows = []
    for name, estimates in found.items():
        low, high = np.array([[each.low, each.high] for each in estimates], np.float64).T
        covered = (low <= truth[name]) & (truth[name] <= high)
        rows.append({
            "interval": name,
            "patients": num_patients,
            "images a patient": images,
            "true value": round(truth[name], 3),
            "half-width": round(float(np.mean(high - low)) / 2, 3),
            "coverage, %": round(100 * float(np.mean(covered)), 1),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="simulated, for each row")
    parser.add_argument("--draws", type=int, default=1000, help="resamples of each study")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rows = [
        row
        for num_patients in PATIENTS
        for images in IMAGES
        for row in measure(num_patients, images, **vars(arguments))
    ]
    rows.sort(key=lambda row: str(row["interval"]))
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")
    print(json.dumps({"studies": arguments.studies, "draws": arguments.draws, "rows": rows}))


if __name__ == "__main__":
    main()
