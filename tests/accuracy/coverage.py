"""Measures how often 95 % intervals hold the true value, on simulated patients.

    python -m tests.accuracy.coverage [--studies=2000] [--draws=1000] [--seed=1]

A study is 100 or 300 patients, half of them abnormal, with 2 images each (the views of a body) or
26 (crops of its regions). What a patient's images have in common is half of the variance of their
scores, so images are far from independent. For each study an interval of

- the AUC of images of two networks, and their difference. DeLong takes images as independent,
  Obuchowski does not;
- the sensitivity at one false positive per image, where lesions of a patient are all easier or
  harder to find, and a patient's images have more or fewer false positives;
- the pooled Dice, where areas of lesions are log-normal, so that a few rule the ratio.

`bootstrap` is what the package gives, `percentiles` the plain ones of the same resamples. The true
AUC is known; true values of the other two are those of a study of `MANY` images. Coverage is the
share of studies whose interval holds the true value: of 2,000 it has a standard error of 0.5
points. A study without an interval does not count. Progress goes to standard error, a table in
Markdown and one line of JSON to standard output.
"""

import argparse
import json
import sys
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from bonescan_jax.metrics import bootstrap, weighted
from bonescan_jax.metrics.classification import Auc, roc_auc
from bonescan_jax.metrics.comparison import Difference, paired_difference
from bonescan_jax.metrics.segmentation import overlap_scores

MANY = 2_000_000
IMAGES = (2, 26)
PATIENTS = (100, 300)
# Of an abnormal patient's images; on average 1.6 of the two views, 3.9 of the crops.
SHARE_ABNORMAL = {2: 0.8, 26: 0.15}
APART = (1.6, 2.4)  # abnormal scores from normal, in standard deviations: AUC of 0.871 and 0.955
FALSE_CANDIDATES = 4.0  # per image

Interval = Auc | bootstrap.Estimate | Difference


class Study(NamedTuple):
    """A set of patients and who each image is of."""

    num_patients: int
    patients: np.ndarray  # (images,)
    abnormal: np.ndarray  # (images,) bool
    rng: np.random.Generator

    def shared(self) -> np.ndarray:
        """(images,) the patient's half of a standard normal variable."""
        return np.sqrt(0.5) * self.rng.normal(size=self.num_patients)[self.patients]

    def normal(self) -> np.ndarray:
        """(images,) standard normal, half of it the patient's."""
        return self.shared() + np.sqrt(0.5) * self.rng.normal(size=len(self.patients))


def make_study(num_patients: int, images: int, rng: np.random.Generator) -> Study:
    patients = np.repeat(np.arange(num_patients), images)
    ill = rng.random(num_patients) < 0.5
    abnormal = ill[patients] & (rng.random(len(patients)) < SHARE_ABNORMAL[images])
    return Study(num_patients, patients, abnormal, rng)


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
    found = weighted.sensitivities(
        scores,
        hit,
        ~hit,
        study.patients[image],
        lesions=np.bincount(study.patients, lesions, study.num_patients),
        scans=np.bincount(study.patients, minlength=study.num_patients),
        rates=[1.0],
    )
    return found.statistics[0]


def dice(study: Study) -> bootstrap.Statistic:
    """Pixels of a class: found in part where it is, invented in one image of four."""
    rng = study.rng
    true = study.abnormal * np.rint(np.exp(4.2 + study.normal()))
    found = np.rint(true * expit(1 + study.normal()))
    invented = (rng.random(len(true)) < 0.25) * np.rint(np.exp(3.5 + study.normal()))
    counts = np.stack([found, invented, true - found], axis=1)
    return overlap_scores(counts, study.patients, study.num_patients)["pooled"]["dice"]


def intervals(study: Study, weights: np.ndarray) -> dict[str, Interval]:
    """One of each method."""
    found: dict[str, Interval] = {}
    statistics = {"sensitivity at 1": sensitivity(study), "Dice": dice(study)}
    seen, labels, patients = study.normal(), study.abnormal, study.patients
    for apart in APART:
        scores = np.sqrt(0.5) * (seen + study.normal()) + apart * labels
        name = auc_name(apart)
        found[f"{name}, DeLong"] = roc_auc(scores, labels)
        found[f"{name}, Obuchowski"] = roc_auc(scores, labels, clusters=patients)
        statistics[name] = weighted.auc(scores, labels, patients, study.num_patients)
    for name, statistic in statistics.items():
        found[f"{name}, bootstrap"] = bootstrap.estimate(statistic, weights)
        plain = np.nanquantile(statistic.of_weights(weights), [0.025, 0.975])
        found[f"{name}, percentiles"] = bootstrap.Estimate(statistic.value(), *plain, None)
    found["difference of AUC, bootstrap"] = paired_difference(
        *(statistics[auc_name(apart)] for apart in APART), weights
    )
    return found


def auc_name(apart: float) -> str:
    return f"AUC {true_auc(apart):.3f}"


def true_auc(apart: float) -> float:
    """The chance that one of two independent scores is greater."""
    return float(norm.cdf(apart / np.sqrt(2)))


def true_values(images: int, seed: int) -> dict[str, float]:
    """By the first part of the names of `intervals`."""
    study = make_study(MANY // images, images, np.random.default_rng(seed))
    of_many = {"sensitivity at 1": sensitivity(study).value(), "Dice": dice(study).value()}
    aucs = {auc_name(apart): true_auc(apart) for apart in APART}
    return {**of_many, **aucs, "difference of AUC": true_auc(APART[0]) - true_auc(APART[1])}


def measure(
    num_patients: int, images: int, studies: int, draws: int, seed: int
) -> list[dict[str, Any]]:
    """Coverage and mean half-width of each method, a row each."""
    truth = true_values(images, seed)
    found: dict[str, list[Interval]] = {}
    weights = bootstrap.draw_weights(num_patients, draws, seed)
    for number in range(studies):
        rng = np.random.default_rng([seed, num_patients, images, number])
        for name, each in intervals(make_study(num_patients, images, rng), weights).items():
            found.setdefault(name, []).append(each)
        if number % 500 == 499:
            print(f"{num_patients} patients, {images} images: {number + 1} of {studies} studies",
                  file=sys.stderr, flush=True)  # fmt: skip
    rows = []
    for name, estimates in found.items():
        given = [(each.low, each.high) for each in estimates if each.low is not None]
        low, high = np.array(given, np.float64).T
        true = truth[name.split(",")[0]]
        above, below = 100 * np.mean(low > true), 100 * np.mean(high < true)
        rows.append({
            "interval": name,
            "patients": num_patients,
            "images": images,
            "true": round(true, 3),
            "half_width": round(float(np.mean(high - low)) / 2, 3),
            "covers": round(float(100 - above - below), 1),
            "too_high": round(float(above), 1),
            "too_low": round(float(below), 1),
            "none": len(estimates) - len(given),
        })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Coverage in percent, with what is too high and too low in brackets, by size of the study."""
    sizes = [(num_patients, images) for num_patients in PATIENTS for images in IMAGES]
    cells = {
        (
            row["interval"],
            row["patients"],
            row["images"],
        ): "{covers} ({too_high}, {too_low})".format(**row)
        for row in rows
    }
    lines = ["| interval | " + " | ".join(f"{n} × {images}" for n, images in sizes) + " |"]
    lines.append("|---|" + "---|" * len(sizes))
    for name in sorted({row["interval"] for row in rows}):
        lines.append(f"| {name} | " + " | ".join(cells[name, *size] for size in sizes) + " |")
    return "\n".join(lines)


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
    print(table(rows))
    print(json.dumps({"studies": arguments.studies, "draws": arguments.draws, "rows": rows}))


if __name__ == "__main__":
    main()
