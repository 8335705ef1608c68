"""Whether scores of candidates, views and patients are probabilities: figures with intervals."""

from typing import Any

import numpy as np

from bonescan_jax.metrics import calibration, weighted
from bonescan_jax.metrics.bootstrap import estimate


def calibration_figures(
    scores: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    temperature: float | None,
    weights: np.ndarray,
) -> dict[str, Any]:
    """Brier score, calibration error and reliability, as predicted and with the temperature.

    The Brier score is the mean squared error of probabilities. Brier 1950, "Verification of
    forecasts expressed in terms of probability", Monthly Weather Review 78, doi
    10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.

    Args:
        scores: (items,) probabilities.
        labels: (items,) bool, what they are probabilities of.
        patients: (items,) number of the patient.
        temperature: fitted on the validation split; None where there was nothing to fit it to.
        weights: (draws, patients) resamples.

    Returns:
        "temperature", and {"brier", "calibration_error", "reliability"} in "as_predicted" and, if
        there is a temperature, in "with_temperature". Empty where there are no items.
    """
    if not len(scores):
        return {}
    ways = {"as_predicted": scores}
    if temperature is not None:
        ways["with_temperature"] = calibration.apply_temperature(scores, temperature)
    of_patients = (patients, weights.shape[1])
    figures: dict[str, Any] = {"temperature": temperature}
    for way, values in ways.items():
        brier = weighted.mean((values - labels) ** 2, *of_patients)
        error = weighted.calibration_error(values, labels, *of_patients)
        figures[way] = {
            "brier": estimate(brier, weights).to_json(),
            "calibration_error": estimate(error, weights).to_json(),
            "reliability": [each._asdict() for each in calibration.reliability(values, labels)],
        }
    return figures
