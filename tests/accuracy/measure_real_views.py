"""By hand: measures real whole-body views for `bonescan_jax/phantom/real_views.py`.

    python tests/accuracy/measure_real_views.py FOLDER ID … > bonescan_jax/phantom/real_views.py
    python tests/accuracy/measure_real_views.py FOLDER ID … --against=60

FOLDER holds BS-80K's wholeBodyANT/ and wholeBodyPOST/. With --against it says how well a classifier
tells these patients from simulated ones (needs scikit-learn).
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bonescan_jax.phantom.features import view_features
from bonescan_jax.phantom.realism import simulated_features
from bonescan_jax.scans import VIEWS
from bonescan_jax.scans.bs80k import FOLDERS
from bonescan_jax.scans.dicom import read_dicom
from bonescan_jax.scans.unwrap import unwrap_grey


def real_features(folder: Path, number: int, view: str) -> dict[str, float]:
    """Measure one real view."""
    grey = cv2.imread(str(folder / FOLDERS[view] / f"{number}.jpg"), cv2.IMREAD_GRAYSCALE)
    scan = unwrap_grey(grey)
    return view_features(scan.values, float(scan.values.sum()) / scan.gain)


def print_module(real: dict[str, list[dict[str, float]]], source: str, nm1: Path | None) -> None:
    """Print `real_views.py`: percentiles 10, 50 and 90 over patients."""
    print(
        '"""What real whole-body views measure: written by tests/accuracy/measure_real_views.py."""'
    )
    print(f'\nSOURCE = "{source}"\n\n# View, feature: 10th percentile, median, 90th percentile.')
    print("REAL_VIEWS: dict[str, dict[str, tuple[float, float, float]]] = {")
    for view, patients in real.items():
        print(f'    "{view}": {{')
        for name in patients[0]:
            values = np.percentile([patient[name] for patient in patients], (10, 50, 90))
            numbers = ", ".join(f"{value:.4g}" for value in values)
            print(f'        "{name}": ({numbers}),')
        print("    },")
    print("}")
    if nm1:
        (frame,) = read_dicom(nm1)
        print(
            "\n# The anterior view of NEMA WG04's sample NM1, an obese patient, 3,596,452 counts."
        )
        print("NM1: dict[str, float] = {")
        for name, value in view_features(frame.pixels, float(frame.pixels.sum())).items():
            print(f'    "{name}": {value:.4g},')
        print("}")


def print_separation(real: dict[str, list[dict[str, float]]], patients: int) -> None:
    """Print the AUC of logistic regression and of a forest, cross-validated by patient."""
    made = [simulated_features((4242, number)) for number in range(1, patients + 1)]
    for view_number, view in enumerate(VIEWS):
        views = real[view] + [patient[view_number] for patient in made]
        table = np.array([list(features.values()) for features in views])
        is_real = np.arange(len(views)) < len(real[view])
        folds = GroupKFold(min(7, int(is_real.sum())), shuffle=True, random_state=0)
        for model in (
            make_pipeline(StandardScaler(), LogisticRegression(C=0.05, class_weight="balanced")),
            RandomForestClassifier(500, class_weight="balanced", random_state=0),
        ):
            score = cross_val_predict(
                model, table, is_real, groups=np.arange(len(views)), cv=folds,
                method="predict_proba",
            )[:, 1]  # fmt: skip
            print(f"{view}: AUC {roc_auc_score(is_real, score):.2f} {model}")
        away = (table[is_real].mean(0) - table[~is_real].mean(0)) / table[~is_real].std(0)
        for number in np.argsort(-np.abs(away))[:8]:
            print(f"    {list(views[0])[number]}: {away[number]:+.1f} standard deviations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("ids", type=int, nargs="+")
    parser.add_argument("--nm1", type=Path, help="DICOM file of NM1")
    parser.add_argument("--against", type=int, help="compare with so many simulated patients")
    values = parser.parse_args()
    real = {
        view: [real_features(values.folder, number, view) for number in values.ids]
        for view in VIEWS
    }
    if values.against:
        print_separation(real, values.against)
    else:
        numbers = ", ".join(map(str, values.ids))
        print_module(real, f"BS-80K, whole body, patients {numbers}", values.nm1)


if __name__ == "__main__":
    main()
