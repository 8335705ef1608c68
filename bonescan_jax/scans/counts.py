"""Counts from grey values: the gain, and the brightness of bone.

BS-80K stores grey = round(gain × counts) and encodes it as JPEG of quality 100. Counts are Poisson,
so the variance of a pixel is gain × its grey value: that gives the gain to some percent. Hot spots
that went past 255 are for `bonescan_jax.scans.unwrap`.
"""

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

_NEAR = np.ones((3, 3), np.uint8)
_JPEG_CHANGED = 0.16  # share of pixels that JPEG of quality 100 shifts by one level
_JPEG_VARIANCE = 0.18  # of that shift and of rounding to whole grey levels

# ------------------------------------------------------------------------------ brightness of bone

# Without air (darker than a tenth of bone) and hot spots (brighter than two and a half times bone),
# the 85th percentile is at about five sixths of the brightness of bone. Hot spots shift a
# lower percentile less, and wide bounds make sure that it is found again.
_BODY_PERCENTILE, _AIR, _HOT = 85.0, 0.1, 2.5
_BONE = 1.2  # times that percentile
# Before bone is known: air is under a twentieth of the brightest twentieth of what is not zero.
_SURE_AIR, _BRIGHTEST = 0.05, 95.0
_START = 2.0  # times the middle of the body, that is of soft tissue or between it and bone
_ROUNDS = 15
# Of values that are not whole 16-bit numbers: where the brightest twentieth begins, and the last.
_BRIGHT_BINS, _MOST_BINS = 2048, 65535


def bone_reference(pixels: np.ndarray) -> float:
    """Brightness of bone in a whole-body view or a crop of one, in the unit of its pixels.

    Leaving out what is hot or air by the very brightness that is sought, from dark to bright, it
    does not follow hot spots, however many. Means of 3×3 pixels make it independent of noise, thus
    of dose, and of the gaps that a gain leaves between grey levels.

    Args:
        pixels: (H, W) grey values or counts, zero or more; integers or floats, rounded to integers.

    Returns:
        1.2 times the 85th percentile of the 3×3 means between 0.1 and 2.5 times that percentile,
        at least 1, or for fractions and for counts past 16 bits at least a unit that fits them.
    """
    pixels = pixels.astype(np.float32)
    unit = _histogram_unit(pixels)
    # Sums of nine integers stay integers: the histogram has ninths of a level.
    whole = np.minimum(np.rint(pixels / unit), _MOST_BINS)
    sums = cv2.boxFilter(whole, -1, (3, 3), normalize=False, borderType=cv2.BORDER_REPLICATE)
    histogram = np.bincount(sums.astype(np.int64).ravel())
    histogram[0] = 0
    if not histogram.any():
        return unit
    # Integers stand for [value - ½, value + ½).
    cumulative = np.concatenate([[0.0], np.cumsum(histogram)])
    edges = np.arange(len(cumulative)) - 0.5

    def percentile(percent: float, low: float, high: float) -> float:
        first, last = np.interp([low, high], edges, cumulative)
        return float(np.interp(first + percent / 100 * (last - first), cumulative, edges))

    air = _SURE_AIR * percentile(_BRIGHTEST, edges[0], edges[-1])
    bright = _START * percentile(50, air, edges[-1])
    for _ in range(_ROUNDS):
        bright = percentile(_BODY_PERCENTILE, max(air, _AIR * bright), _HOT * bright)
    return unit * max(1.0, _BONE * bright / 9)


def _histogram_unit(pixels: np.ndarray) -> float:
    """The power of two that makes (H, W) values fit for a histogram; 1 for whole 16-bit ones.

    Count rates are fractions far below 1, and float counts may go up to 2**24: neither makes bins
    of one count each.
    """
    positive = pixels[pixels > 0]
    whole = np.array_equal(positive, np.rint(positive))
    if not len(positive) or (whole and pixels.max() <= _MOST_BINS):
        return 1.0
    unit = 2.0 ** np.floor(np.log2(np.percentile(positive, _BRIGHTEST) / _BRIGHT_BINS))
    return float(max(1.0, unit) if whole else unit)


# -------------------------------------------------------------------------------------------- gain

# Takes away whatever varies along rows or along columns only; leaves white noise its variance.
_NOISE_KERNEL = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32) / 6
_MAX_LEVEL = 512  # brighter pixels are too rare to show the comb
_EVEN_ODDS = 50.0  # log-likelihood a gain must be ahead of 1 to be believed: more than chance makes


def estimate_gain(grey: np.ndarray) -> float:
    """Estimate how many grey levels a count has taken.

    The ratio of local variance to mean, the gain of a Poisson image, is good to some percent. The
    histogram sharpens it: of whole counts times the gain only some grey levels are ever met. Of the
    gains within the reach of the ratio the one is taken that makes the histogram most likely.

    Args:
        grey: (H, W), whole numbers: 8 bit (taken to have been a JPEG file; may be wrapped), 16 bit,
            or raw counts, also as floats.

    Returns:
        Grey levels a count, at least 1; 1 if there is nothing to say otherwise, as for raw counts.
    """
    ratio, deviation = _variance_to_mean(grey)
    reach = (
        0.06 + 3 * deviation
    )  # 6 %: the anatomy that the kernel leaves, pixels that are no noise
    low, high = max(1.0, ratio * (1 - reach)), max(1.06, ratio * (1 + reach))
    gains = np.geomspace(low, high, 241)
    likelihood = _comb_log_likelihood(grey, gains)
    likelihood -= 0.5 * ((gains / ratio - 1) / (deviation + 0.03)) ** 2
    best = int(np.argmax(likelihood))
    if low == 1 and likelihood[0] > likelihood[best] - _EVEN_ODDS:
        return 1.0
    return float(gains[best])


def _variance_to_mean(grey: np.ndarray) -> tuple[float, float]:
    """Return the local variance-to-mean ratio and its relative standard deviation."""
    pixels = grey.astype(np.float32)
    noise = cv2.filter2D(pixels, -1, _NOISE_KERNEL)
    mean = cv2.blur(pixels, (3, 3))
    # Chosen by a mean so wide that it says nothing of the noise under the kernel: pixels that are
    # dark or bright by chance would bias the ratio.
    level = cv2.blur(pixels, (9, 9))
    # No zeros, which are the outside of a crop's polygon or counts too few for BS-80K to keep.
    chosen = (level > 2) & (cv2.erode((pixels > 0).astype(np.uint8), _NEAR) > 0)
    if np.count_nonzero(chosen) < 100:
        return 1.0, 0.3
    level, mean, square = level[chosen], mean[chosen], noise[chosen] ** 2
    # Hot spots are left out, for they wrap.
    middle, hot = np.percentile(level, [60, 95])
    # The median of a squared normal variate is 0.455 of its mean.
    ratio = max(0.2, float(np.median(square) / 0.455 / np.median(level)))
    for _ in range(4):
        # From six counts on there is no zero by chance, so that leaving out zeros is no bias.
        kept = (level >= min(6 * ratio, middle)) & (level <= hot) & (mean <= 2 * hot)
        kept &= square < 25 * ratio * mean + ratio**2
        if not kept.any():  # no image: stripes, checks
            return 1.0, 0.3
        excess = square[kept].sum() - _JPEG_VARIANCE * np.count_nonzero(kept)
        ratio = max(0.1, float(excess / mean[kept].sum()))
    # A pixel's neighbours share its noise under the kernel: 3.6 pixels carry the news of one.
    return ratio, float(np.sqrt(2 * 3.6 / np.count_nonzero(kept)))


def _comb_log_likelihood(grey: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return the log-likelihood of the histogram of (H, W) grey levels under each of the gains."""
    levels = np.clip(np.rint(grey.astype(np.float32)), 0, _MAX_LEVEL).astype(np.int32)
    histogram = np.bincount(levels.ravel(), minlength=_MAX_LEVEL)[:_MAX_LEVEL].astype(np.float64)
    histogram[:2] = 0  # air
    top = int(np.searchsorted(np.cumsum(histogram), 0.998 * histogram.sum())) + 1
    if top < 8:
        return np.zeros(len(gains))
    # How many counts c round to each level: those with level - ½ <= gain × c < level + ½.
    # Gains such as 1.5 meet that ½ itself, which rounds either way: the mean of both.
    edges = np.arange(top + 1) - 0.5
    first = sum(np.ceil((edges + shift) / gains[:, None]) for shift in (-0.03, 0.03)) / 2
    comb = np.diff(first, axis=1)
    if grey.dtype == np.uint8:
        padded = np.pad(comb, ((0, 0), (1, 1)), mode="edge")
        half = _JPEG_CHANGED / 2
        comb = (1 - 2 * half) * comb + half * (padded[:, :-2] + padded[:, 2:])
    comb += 0.005  # a level that should be empty may yet be met
    # The histogram of the counts themselves is smooth: the comb rides on that. It is steep as well,
    # which blurring flattens: the second round mends what the first took away.
    comb, met = comb[:, 3:], histogram[3:top]
    width = max(2.0, 1.2 * float(gains[-1]))
    envelope = gaussian_filter1d(met, width) + 1e-12
    smooth = envelope / gaussian_filter1d(comb, width, axis=1)
    expected = gaussian_filter1d(comb * smooth / envelope, width, axis=1)
    share = comb * smooth * (gaussian_filter1d(met / envelope, width) / expected) + 1e-12
    share /= share.sum(axis=1, keepdims=True)
    return np.log(share) @ met
