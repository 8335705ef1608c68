"""Counts from grey values: the gain, hot spots that went past 255, the brightness of bone.

BS-80K stores grey = round(gain × counts) mod 256 and encodes it as JPEG of quality 100. Counts are
Poisson, so the variance of a pixel is gain × its grey value: that gives the gain to some percent,
and says how far a neighbour may lie. The camera's blur (FWHM of two pixels or more) does the rest:
what is brighter than 255 is found again as the smooth surface that joins on to its surroundings.

Of the real chest crops with overflow, the one whose gain is 1 fits this. The others have rings of
exactly 255, as min(255, round(gain × (counts mod 256))) gives: a turn is worth gain × 256 then.
Overflow is found on them too, but its total comes out too low.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from bonescan_jax.errors import InputError

_NEAR = np.ones((3, 3), np.uint8)
_LEVELS = 256  # of an 8-bit image: so much a turn takes away
_JPEG_CHANGED = 0.16  # share of pixels that JPEG of quality 100 shifts by one level
_JPEG_VARIANCE = 0.18  # of that shift and of rounding to whole grey levels


class GreyScan(NamedTuple):
    """An 8-bit scan with its overflow undone."""

    values: np.ndarray  # (H, W) uint16, grey values unwrapped: gain × counts, JPEG's ±1 in it
    turns: np.ndarray  # (H, W) uint8, how often each pixel went past 255
    gain: float  # grey levels a count
    reference: float  # brightness of bone in the unit of `values` (bone_reference)


# ------------------------------------------------------------------------------ brightness of bone

# Bone lies near the 92nd percentile of what is no air (darker than a fifth of bone) and no hot spot
# (brighter than one and a half times bone).
_BONE_PERCENTILE = 92.0
_AIR, _HOT = 0.2, 1.5
# Before bone is known: air is under a twentieth of the brightest twentieth of what is not zero.
_SURE_AIR, _BRIGHTEST = 0.05, 95.0
_START = 2.0  # times the middle of the body, that is of soft tissue or between it and bone
_ROUNDS = 15


def bone_reference(pixels: np.ndarray) -> float:
    """Brightness of bone in a whole-body view or a crop of one, in the unit of its pixels.

    Leaving out what is hot or air by the very brightness that is sought, from dark to bright, it
    does not follow hot spots, however many. Means of 3×3 pixels make it independent of noise, thus
    of dose, and of the gaps that a gain leaves between grey levels.

    Args:
        pixels: (H, W) grey values or counts, zero or more; integers or floats, rounded to integers.

    Returns:
        The 92nd percentile of the 3×3 means between 0.2 and 1.5 times itself, at least 1.
    """
    # Sums of nine integers stay integers: the histogram has ninths of a level.
    whole = np.rint(pixels.astype(np.float32))
    sums = cv2.boxFilter(whole, -1, (3, 3), normalize=False, borderType=cv2.BORDER_REPLICATE)
    histogram = np.bincount(sums.astype(np.int64).ravel())
    histogram[0] = 0
    if not histogram.any():
        return 1.0
    # Integers stand for [value - ½, value + ½).
    cumulative = np.concatenate([[0.0], np.cumsum(histogram)])
    edges = np.arange(len(cumulative)) - 0.5

    def percentile(percent: float, low: float, high: float) -> float:
        first, last = np.interp([low, high], edges, cumulative)
        return float(np.interp(first + percent / 100 * (last - first), cumulative, edges))

    air = _SURE_AIR * percentile(_BRIGHTEST, edges[0], edges[-1])
    bone = _START * percentile(50, air, edges[-1])
    for _ in range(_ROUNDS):
        bone = percentile(_BONE_PERCENTILE, max(air, _AIR * bone), _HOT * bone)
    return max(1.0, bone / 9)


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
    best = int(likelihood.argmax())
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


# ---------------------------------------------------------------------------------------- overflow

_HOT_GREY = 200  # the blur lets nothing reach 256 without neighbours above this
_JUMP = 112  # grey levels between neighbours: where overflow, or a steep hot spot, may be
# Pixels of an image, 200 cm²: hot spots that overflow have a few hundred. More is damage, which to
# unwrap would take minutes and mean nothing; the largest parts then stay as they are.
_MOST_SUSPECT = 4096
_NOISE_ONLY = 0.8  # misfit of right turns is 0.62 to 0.73: the blur follows the noise a little
_UNKNOWN = np.float32(1e9)  # noise variance of a pixel that is not unwrapped yet


class _Surface(NamedTuple):
    """What is held for likely of the surface that unwrapped pixels lie on."""

    reach: int  # pixels that a prediction looks away
    length: float  # pixels: standard deviation of the Gaussian covariance
    swing: float  # standard deviation of the surface, in units of the brightest pixel around


# From stiff to lithe: wide hot spots need the stiff ones, where noise leads a lithe surface astray,
# steep and bright ones the others. The first is the quickest and most often enough.
_SURFACES = (
    _Surface(2, 2.0, 0.25),
    _Surface(4, 3.0, 0.25),
    _Surface(2, 3.0, 4.0),
    _Surface(3, 3.0, 2.0),
)
_MEAN_SWING = 4.0  # variance of the unknown local mean, in units of the surface's own


def unwrap_grey(grey: np.ndarray) -> GreyScan:
    """Undo the overflow of hot spots in an 8-bit scan.

    Where neighbours differ much, around pixels brighter than 200, the number of turns is settled
    from the outside inwards: each pixel's value is predicted from those known around it by kriging
    (Gaussian-process regression with Poisson noise; Rasmussen & Williams 2006, eq. 2.25), and the
    number of turns is taken that brings it nearest. An image without such pixels stays as it is.

    Real crops with a gain over 1 hold rings of exactly 255 where they overflow: they look like
    min(255, round(gain × (counts mod 256))). There the totals found here are too low.

    Args:
        grey: (H, W) uint8, round(gain × counts) mod 256, give or take JPEG's ±1.

    Raises:
        InputError: the image is not 8 bit.
    """
    if grey.dtype != np.uint8 or grey.ndim != 2:
        raise InputError(
            f"Unwrapping: found {grey.dtype} pixels of shape {grey.shape}, "
            "expected a two-dimensional uint8 image."
        )
    gain = estimate_gain(grey)
    turns = np.zeros(grey.shape, np.uint8)
    for window, suspect in _suspects(grey):
        found = _unwrap_window(grey[window].astype(np.float32), suspect, gain)
        turns[window][suspect] = found[suspect]
    values = grey + np.uint16(_LEVELS) * turns
    return GreyScan(values, turns, gain, bone_reference(values))


def _suspects(grey: np.ndarray) -> list[tuple[tuple[slice, slice], np.ndarray]]:
    """Find where there may be overflow: windows, and in each a mask of the pixels to settle."""
    if grey.size == 0 or grey.max() < _HOT_GREY:
        return []
    smooth = cv2.dilate(grey, _NEAR) - cv2.erode(grey, _NEAR) <= _JUMP
    number, labels, stats, _ = cv2.connectedComponentsWithStats(
        smooth.astype(np.uint8), connectivity=4
    )
    if number == 1:
        return []
    # The largest smooth part is air and body; smooth parts apart from it are the tops of hot spots.
    body = 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    suspect = cv2.dilate((labels != body).astype(np.uint8), _NEAR)
    number, labels, stats, _ = cv2.connectedComponentsWithStats(suspect, connectivity=8)
    found = []
    for part in range(1, number):
        left, top, width, height = stats[part, :4]
        # Eight pixels around hold all that predictions and their cost look at.
        window = (
            slice(max(0, top - 8), top + height + 8),
            slice(max(0, left - 8), left + width + 8),
        )
        mask = labels[window] == part
        if grey[window][mask].max() >= _HOT_GREY:
            found.append((window, mask))
    found.sort(key=lambda part: part[1].sum())
    total = np.cumsum([mask.sum() for _, mask in found])
    return found[: np.searchsorted(total, _MOST_SUSPECT, side="right")]


def _unwrap_window(grey: np.ndarray, suspect: np.ndarray, gain: float) -> np.ndarray:
    """Return the turns (H, W) uint8 of a window, of all surfaces by the one that costs least."""
    best, least = np.zeros(grey.shape, np.uint8), np.inf
    for surface in _SURFACES:
        turns = _flood(grey, suspect, gain, surface)
        misfit, cost = _misfit(grey + np.float32(_LEVELS) * turns, suspect, gain)
        if cost < least:
            best, least = turns, cost
        if misfit <= _NOISE_ONLY:  # no other surface will be better
            break
    return best


def _misfit(values: np.ndarray, suspect: np.ndarray, gain: float) -> tuple[float, float]:
    """Return how far unwrapped values lie from a blurred image.

    Returns:
        Mean of the squared distances in units of their variance, and -2 log-likelihood a pixel.
    """
    # Two blurs of σ = 1 pixel, combined so that parabolas stay (Tukey's twicing): less than the
    # camera's own blur.
    once = cv2.GaussianBlur(values, (0, 0), 1.0)
    blurred = np.maximum(2 * once - cv2.GaussianBlur(once, (0, 0), 1.0), 1)[suspect]
    variance = gain * blurred + 1
    squared = (values[suspect] - blurred) ** 2 / variance
    return float(squared.mean()), float((squared + np.log(variance)).mean())


def _flood(grey: np.ndarray, suspect: np.ndarray, gain: float, surface: _Surface) -> np.ndarray:
    """Settle the turns of the suspect pixels from the outside inwards; (H, W) uint8."""
    reach = surface.reach
    inside = (slice(reach, -reach),) * 2
    known = ~suspect
    turns = np.zeros(grey.shape, np.uint8)
    # Padded, so that every pixel has all neighbours; views of the inside follow what is written.
    padded_values = np.pad(grey, reach)
    padded_noise = np.full_like(padded_values, _UNKNOWN)
    values, noise = padded_values[inside], padded_noise[inside]
    noise[known] = _noise_variance(grey[known], gain)

    def predict(row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        brightest = cv2.dilate(np.where(known, values, 0), np.ones((5, 5), np.uint8))
        swing = np.maximum(128, surface.swing * brightest[row, column])
        return _krige(padded_values, padded_noise, row, column, swing, surface)

    def settle(row: np.ndarray, column: np.ndarray, expected: np.ndarray) -> None:
        turn = np.clip(np.rint((expected - grey[row, column]) / _LEVELS), 0, 255)
        turns[row, column] = turn
        values[row, column] = grey[row, column] + _LEVELS * turn
        noise[row, column] = _noise_variance(np.maximum(values[row, column], expected), gain)
        known[row, column] = True

    while not known.all():
        neighbours = cv2.boxFilter(
            known.astype(np.uint8), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT
        )
        neighbours[known] = 0
        row, column = np.nonzero(neighbours >= min(3, max(1, neighbours.max())))
        if not len(row):  # hot all over: nothing to start from
            return turns
        expected, deviation = predict(row, column)
        # The surer half goes first: it makes the rest surer.
        sure = deviation <= max(30.0, float(np.median(deviation)))
        settle(row[sure], column[sure], expected[sure])
    # Once more with neighbours on all sides, four interleaved grids in turn.
    row, column = np.nonzero(suspect)
    for offset in range(4):
        grid = (row % 2) * 2 + column % 2 == offset
        settle(row[grid], column[grid], predict(row[grid], column[grid])[0])
    return turns


def _noise_variance(values: np.ndarray, gain: float) -> np.ndarray:
    """Poisson noise of pixels with these values, JPEG and rounding with it."""
    return gain * np.maximum(values, 1) + _JPEG_VARIANCE


@functools.cache
def _neighbourhood(surface: _Surface) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets (n, 2) of the neighbours, their covariance (n, n), that with the centre (n,)."""
    side = np.arange(-surface.reach, surface.reach + 1)
    offsets = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    offsets = offsets[offsets.any(axis=1)]

    def covariance(squared: np.ndarray) -> np.ndarray:
        return (np.exp(-squared / (2 * surface.length**2)) + _MEAN_SWING).astype(np.float32)

    apart = ((offsets[:, None] - offsets[None]) ** 2).sum(-1)
    return offsets, covariance(apart), covariance((offsets**2).sum(-1))


def _krige(
    values: np.ndarray,
    noise: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    swing: np.ndarray,
    surface: _Surface,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict pixels from their neighbours alone.

    Args:
        values: (H + 2 reach, W + 2 reach) unwrapped values, padded.
        noise: the same shape, their variance.
        row: (k,) of the pixels, in the image without padding.
        column: (k,) likewise.
        swing: (k,) standard deviation of the surface there.
        surface: its shape.

    Returns:
        Expected values (k,) and their standard deviations (k,).
    """
    offsets, among, to_centre = _neighbourhood(surface)
    where = (
        row[:, None] + offsets[:, 0] + surface.reach,
        column[:, None] + offsets[:, 1] + surface.reach,
    )
    matrix = np.repeat(among[None], len(row), axis=0)
    diagonal = np.arange(len(offsets))
    matrix[:, diagonal, diagonal] += noise[where] / (swing**2)[:, None]
    right = np.broadcast_to(to_centre[:, None], (len(row), len(offsets), 1))
    weights = np.linalg.solve(matrix, right)[..., 0]
    expected = (weights * values[where]).sum(axis=1)
    variance = 1 + _MEAN_SWING - weights @ to_centre
    return expected, swing * np.sqrt(np.maximum(variance, 0))
