"""Unwraps hot spots that overflowed 8 bits.

BS-80K is said to store round(gain × counts) mod 256, where a turn is worth 256 grey levels. The
real chest crops with overflow and a gain above 1 contradict: they have rings of exactly 255 (pixels
at 255 / at 253 or 254: number 216 11/0, 280 15/0, 396 15/1, 720 5/0, 1343 13/1, 2196 3/0), as
min(255, round(gain × (counts mod 256))) gives. There a turn is worth 256 × gain, and 255 stands for
all from 255 to 255 × gain. Both are undone; which of them a scan went through, the share of its
brightest grey levels tells.

The noise of a pixel is known from the gain, so it says how far a neighbour may lie. The camera's
blur (FWHM of two pixels or more) does the rest: what is brighter than 255 is found again as the
smooth surface that joins on to its surroundings.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from bonescan_jax.errors import InputError
from bonescan_jax.scans.counts import bone_reference, estimate_gain

_NEAR = np.ones((3, 3), np.uint8)
_TURN = 256  # of 8 bits: counts, or grey values, that a turn takes away
_CLIPPED = 254  # grey levels from here on may stand for more; JPEG of quality 100 makes 255 a 254


class GreyScan(NamedTuple):
    """An 8-bit scan with its overflow undone."""

    values: np.ndarray  # (H, W) uint16, grey values unwrapped: gain × counts, JPEG's ±1 in it
    turns: np.ndarray  # (H, W) uint8, how often each pixel wrapped
    gain: float  # grey levels a count
    reference: float  # brightness of bone in the unit of `values` (bone_reference)
    misfit: float  # of the worst hot spot: squared distance from a blurred image, in variances
    left_alone: int  # pixels that may have wrapped but are too many to be unwrapped


class _Levels(NamedTuple):
    """What the grey levels of a scan stand for.

    Works on roots of values, whose Poisson noise is the same everywhere: a variance of gain / 4
    (Anscombe 1948).
    """

    gain: float  # grey levels a count
    period: float  # grey levels a turn is worth
    most: float  # what a level of 254 or 255 stands for at most, before whole turns

    def root(self, values: np.ndarray) -> np.ndarray:
        """Return the roots (k,) of values."""
        return np.sqrt(values + 0.375 * self.gain)

    def value(self, roots: np.ndarray) -> np.ndarray:
        """Return the values (k,) that have these roots."""
        return roots**2 - 0.375 * self.gain

    def nearest(
        self, grey: np.ndarray, expected: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the turns that bring grey levels nearest to what their neighbours predict.

        Args:
            grey: (k,) grey levels.
            expected: (3, k) roots: as predicted, were all clipped neighbours as low as can be, and
                were they as high.

        Returns:
            Turns (k,), and the roots (k,) that the pixels may have then: lowest and highest.
        """
        most = np.where(grey < _CLIPPED, grey, np.maximum(grey, self.most))
        likely, lowest, highest = expected
        below = np.floor((self.value(np.maximum(likely, 0)) - most) / self.period) - 1
        turn = np.clip(below, 0, 252) + np.arange(4)[:, None]
        low, high = self.root(grey + turn * self.period), self.root(most + turn * self.period)
        # Far from the prediction, and from the range that clipped neighbours leave to it.
        away = np.abs(np.clip(likely, low, high) - likely)
        away += np.maximum(0, np.maximum(low - highest, lowest - high))
        best = away.argmin(axis=0), np.arange(len(grey))
        return turn[best], low[best], high[best]


# No hot spot overflows in an image without pixels brighter than this: the blur sees to it.
_HOT_GREY = 200
_JUMP = 112  # grey levels between neighbours: where overflow, or a steep hot spot, may be
# Pixels of an image, 150 cm²: hot spots that overflow have some hundreds. More is damage, which to
# unwrap would take minutes and mean nothing; the largest parts then stay as they are.
_MOST_SUSPECT = 3072
_BRIGHT = 240  # from here on grey levels are counted to tell whether they were clipped
_NOISE_ONLY = 0.7  # misfit of right turns is 0.61 to 0.76: the blur follows the noise a little
# More is no noise: turns are likely to be wrong. Of 732 chest crops and 20 whole-body views of
# BS-80K eight had turns, with misfits of 0.6 to 1.2 but for 2.5 and 4.4 at a hot spot that the
# border cuts, where the blur is no guide, and 128 in patient 137: scattered pixels and no body.
MOST_MISFIT = 6.0
_ROUNDS = 2  # after all pixels are settled: clipped ones follow their neighbours slowly
_UNKNOWN = np.float32(1e9)  # noise variance of a pixel that is not unwrapped yet


class _Surface(NamedTuple):
    """Prior of the surface that the square roots of unwrapped pixels lie on."""

    reach: int  # pixels that a prediction looks away
    length: float  # pixels: standard deviation of the Gaussian covariance
    swing: float  # standard deviation of the surface, in units of the brightest root around


# From smooth to flexible: wide hot spots need the smooth ones, as a flexible surface follows the
# noise; steep and bright ones need the others. The first is the fastest and usually sufficient.
_SURFACES = (
    _Surface(2, 3.0, 0.25),
    _Surface(2, 3.0, 1.0),
    _Surface(4, 3.0, 0.5),
    _Surface(3, 3.0, 2.0),
)
_MEAN_SWING = 4.0  # variance of the unknown local mean, in units of the surface's own


def unwrap_grey(grey: np.ndarray) -> GreyScan:
    """Undo the overflow of hot spots in an 8-bit scan.

    Where neighbours differ much or pixels are clipped, the number of turns is settled from the
    outside inwards: each pixel's root is predicted from those known around it by kriging
    (Gaussian-process regression; Rasmussen & Williams 2006, eq. 2.25), and the number of turns is
    taken that brings it nearest. A clipped pixel gets what is nearest to the prediction of all that
    it may stand for. Other pixels stay as they are, and so does an image with none above 200.

    Args:
        grey: (H, W) uint8, round(gain × counts) mod 256 or min(255, round(gain × (counts mod
            256))), give or take JPEG's ±1.

    Raises:
        InputError: the image is not 8 bit.
    """
    if grey.dtype != np.uint8 or grey.ndim != 2:
        raise InputError(
            f"Unwrapping: found {grey.dtype} pixels of shape {grey.shape}, "
            "expected a two-dimensional uint8 image."
        )
    suspects, left_alone = _suspects(grey)
    levels = _levels([grey[place][suspect] for place, suspect in suspects], estimate_gain(grey))
    values, turns = grey.astype(np.uint16), np.zeros(grey.shape, np.uint8)
    misfit = 0.0
    for place, suspect in suspects:
        found, turned = _unwrap_window(grey[place].astype(np.float32), suspect, levels)
        if turned.any():
            misfit = max(misfit, _misfit(found, suspect, levels.gain)[0])
        values[place][suspect] = np.minimum(np.rint(found[suspect]), np.iinfo(np.uint16).max)
        turns[place][suspect] = turned[suspect]
    return GreyScan(values, turns, levels.gain, bone_reference(values), misfit, left_alone)


def unwrapping_doubts(scan: GreyScan) -> tuple[str, ...]:
    """Phrases about what of a scan's hot spots may still be wrong."""
    doubts = []
    if scan.left_alone:
        doubts.append(
            f"{scan.left_alone} pixels may have overflowed and are left as they are, too many to "
            "be unwrapped"
        )
    if scan.misfit > MOST_MISFIT:
        doubts.append(
            f"unwrapped hot spots are {scan.misfit:.1f} times as rough as noise makes them, "
            f"expected at most {MOST_MISFIT:g}"
        )
    return tuple(doubts)


def _levels(suspects: list[np.ndarray], gain: float) -> _Levels:
    """Tell from the suspect pixels whether counts wrapped before the gain or grey values after it.

    The slopes of hot spots pass all levels alike: of 16 from 240 on, 2 are at 254 or 255 if nothing
    was clipped, and otherwise as many more as there are levels between 255 and 255 × gain.
    """
    grey = np.concatenate([np.zeros(0), *suspects])
    clipped = np.count_nonzero(grey >= _CLIPPED)
    others = np.count_nonzero(grey >= _BRIGHT) - clipped
    most = 255 * gain
    below, above = _CLIPPED - _BRIGHT, most - _CLIPPED + 1
    # Log-likelihood ratio. It is even without such pixels: most real scans with overflow clipped.
    ratio = clipped * np.log(above / 2) - (clipped + others) * np.log((below + above) / (below + 2))
    if ratio < 0:
        return _Levels(gain, period=_TURN, most=_CLIPPED)
    return _Levels(gain, period=_TURN * gain, most=most)


def _suspects(grey: np.ndarray) -> tuple[list[tuple[tuple[slice, slice], np.ndarray]], int]:
    """Find where there may be overflow.

    Returns:
        Windows, and in each a mask of the pixels to settle; and how many more are left alone.
    """
    if grey.size == 0 or grey.max() < _HOT_GREY:
        return [], 0
    smooth = cv2.dilate(grey, _NEAR) - cv2.erode(grey, _NEAR) <= _JUMP
    smooth &= grey < _CLIPPED
    number, labels, stats, _ = cv2.connectedComponentsWithStats(
        smooth.astype(np.uint8), connectivity=4
    )
    if number == 1:
        return [], 0
    # The largest smooth part is air and body; smooth parts apart from it are the tops of hot spots.
    body = 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
    suspect = cv2.dilate((labels != body).astype(np.uint8), _NEAR)
    # A block of black is known to be zero, cut out of the scan: Poisson counts that wrapped never
    # make one.
    black = cv2.morphologyEx((grey <= 1).astype(np.uint8), cv2.MORPH_OPEN, _NEAR)
    suspect = np.where(black, np.uint8(0), suspect)
    number, labels, stats, _ = cv2.connectedComponentsWithStats(suspect, connectivity=8)
    found = []
    for part in range(1, number):
        left, top, width, height = stats[part, :4]
        # Eight pixels around hold all that predictions and their cost look at.
        window = (
            slice(max(0, top - 8), top + height + 8),
            slice(max(0, left - 8), left + width + 8),
        )
        found.append((window, labels[window] == part))
    found.sort(key=lambda part: part[1].sum())
    total = np.cumsum([mask.sum() for _, mask in found])
    kept = int(np.searchsorted(total, _MOST_SUSPECT, side="right"))
    settled = int(total[kept - 1]) if kept else 0
    return found[:kept], int(total[-1]) - settled if found else 0


def _unwrap_window(
    grey: np.ndarray, suspect: np.ndarray, levels: _Levels
) -> tuple[np.ndarray, np.ndarray]:
    """Return values and turns (H, W) of a window, of all surfaces by the one that costs least."""
    best, least = (grey, np.zeros(grey.shape, np.uint8)), np.inf
    for surface in _SURFACES:
        found = _flood(grey, suspect, levels, surface)
        misfit, cost = _misfit(found[0], suspect, levels.gain)
        if cost < least:
            best, least = found, cost
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


def _flood(
    grey: np.ndarray, suspect: np.ndarray, levels: _Levels, surface: _Surface
) -> tuple[np.ndarray, np.ndarray]:
    """Settle the suspect pixels from the outside inwards; values float32 and turns uint8 (H, W)."""
    reach = surface.reach
    inside = (..., slice(reach, -reach), slice(reach, -reach))
    known = ~suspect
    values, turns = grey.copy(), np.zeros(grey.shape, np.uint8)
    # Padded, so that every pixel has all neighbours; views of the inside follow what is written.
    # Roots as found, and as low and as high as can be.
    padded_roots = np.stack([np.pad(levels.root(grey), reach)] * 3)
    padded_noise = np.full_like(padded_roots[0], _UNKNOWN)
    roots, noise = padded_roots[inside], padded_noise[inside]
    noise[known] = levels.gain / 4

    def predict(row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        brightest = cv2.dilate(np.where(known, roots[0], 0), np.ones((5, 5), np.uint8))
        swing = np.maximum(np.sqrt(levels.period / 2), surface.swing * brightest[row, column])
        return _krige(padded_roots, padded_noise, row, column, swing, surface)

    def settle(
        row: np.ndarray, column: np.ndarray, expected: np.ndarray, deviation: np.ndarray
    ) -> None:
        turn, low, high = levels.nearest(grey[row, column], expected)
        # What a clipped pixel may stand for says nothing that its neighbours do not say better.
        spread = np.minimum(deviation, (high - low) / np.sqrt(12))
        roots[:, row, column] = np.clip(expected[0], low, high), low, high
        noise[row, column] = levels.gain / 4 + spread**2
        values[row, column] = levels.value(roots[0, row, column])
        turns[row, column] = turn
        known[row, column] = True

    while not known.all():
        neighbours = cv2.boxFilter(
            known.astype(np.uint8), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT
        )
        neighbours[known] = 0
        row, column = np.nonzero(neighbours >= min(3, max(1, int(np.max(neighbours)))))
        if not len(row):  # hot all over: nothing to start from
            return values, turns
        expected, deviation = predict(row, column)
        # The more certain half goes first: it makes the rest more certain.
        sure = deviation <= max(1.0, float(np.median(deviation)))
        settle(row[sure], column[sure], expected[:, sure], deviation[sure])
    # Again with neighbours on all sides, four interleaved grids in turn.
    row, column = np.nonzero(suspect)
    for offset in [*range(4)] * _ROUNDS:
        grid = (row % 2) * 2 + column % 2 == offset
        settle(row[grid], column[grid], *predict(row[grid], column[grid]))
    return values, turns


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
    roots: np.ndarray,
    noise: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    swing: np.ndarray,
    surface: _Surface,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict roots of pixels from their neighbours alone.

    Args:
        roots: (3, H + 2 reach, W + 2 reach) of unwrapped values, padded, in three versions.
        noise: (H + 2 reach, W + 2 reach), their variance.
        row: (k,) of the pixels, in the image without padding.
        column: (k,) likewise.
        swing: (k,) standard deviation of the surface there.
        surface: its shape.

    Returns:
        Expected roots (3, k) and their standard deviations (k,).
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
    expected = (weights * roots[:, *where]).sum(axis=-1)
    variance = 1 + _MEAN_SWING - weights @ to_centre
    return expected, swing * np.sqrt(np.maximum(variance, 0))
