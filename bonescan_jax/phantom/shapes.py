"""Rods, ellipsoids, shells and curved plates as clouds of points: what the phantom is built of."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline, RectBivariateSpline

SPACING = 2.3  # mm between points; pixels are 2.1 to 2.4 mm and the blur at least 5 mm


def turn(
    points: np.ndarray, pivot: np.ndarray, angle: float | np.ndarray, axes: tuple[int, int] = (0, 1)
) -> None:
    """Rotate points (n, 3) in place about a pivot in the plane of two axes."""
    a, b = axes
    cos, sin = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
    u, v = points[:, a] - pivot[a], points[:, b] - pivot[b]
    points[:, a], points[:, b] = pivot[a] + cos * u + sin * v, pivot[b] - sin * u + cos * v


def sunflower(count: int) -> np.ndarray:
    """Return (count, 2) points that fill the unit disc evenly (Vogel's spiral)."""
    k = np.arange(count) + 0.5
    angle = k * np.pi * (3 - np.sqrt(5))
    return (np.sqrt(k / count) * np.stack([np.cos(angle), np.sin(angle)])).T


def tube(path: ArrayLike, radius: ArrayLike, hollow: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Sample a curved rod along a smooth path.

    Args:
      path: control points, (k, 3) mm.
      radius: mm, one or one per control point.
      hollow: inner radius as a fraction of the outer: 0.6 draws a shaft with a marrow space.

    Returns:
      points (n, 3) mm and the volume each stands for (n,) mm³.
    """
    knots = np.asarray(path, float)
    chord = np.r_[0, np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))]
    steps = max(3, int(chord[-1] / SPACING))
    t = (np.arange(steps) + 0.5) / steps * chord[-1]
    spline = CubicSpline(chord, knots) if len(knots) > 2 else None
    centre = spline(t) if spline else knots[0] + t[:, None] / chord[-1] * (knots[1] - knots[0])
    radii = np.interp(t, chord, np.broadcast_to(radius, len(knots)))
    tangent = np.gradient(centre, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent, (0.31, 0.2, 0.93))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(tangent, side)
    disc = sunflower(int(np.clip(np.pi * radii.max() ** 2 / SPACING**2, 5, 60)))
    disc = disc * (
        hollow / np.maximum(np.linalg.norm(disc, axis=1, keepdims=True), 1e-6) * 0.5
        + 1
        - hollow * 0.5
    )
    turn = np.arange(steps) * 2.4  # turned from step to step, so that no stripes appear
    u = disc[:, 0] * np.cos(turn)[:, None] - disc[:, 1] * np.sin(turn)[:, None]
    v = disc[:, 0] * np.sin(turn)[:, None] + disc[:, 1] * np.cos(turn)[:, None]
    points = centre[:, None] + radii[:, None, None] * (
        u[..., None] * side[:, None] + v[..., None] * up[:, None]
    )
    area = np.pi * radii**2 * (1 - hollow**2) * chord[-1] / steps / len(disc)
    return points.reshape(-1, 3), np.repeat(area, len(disc))


def ellipsoid(centre: ArrayLike, semi: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Sample a solid ellipsoid: points (n, 3) mm, volumes (n,) mm³."""
    axes = np.asarray(semi)
    volume = 4 / 3 * np.pi * float(np.prod(axes))
    count = int(np.clip(volume / SPACING**3 / 2, 24, 12000))
    k = np.arange(count) + 0.5
    height, angle = 1 - 2 * k / count, k * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - height**2)
    sphere = np.stack([ring * np.cos(angle), height, ring * np.sin(angle)], 1)
    radius = np.cbrt((k * 0.7548776662) % 1)  # low-discrepancy, uniform in volume
    return np.asarray(centre) + sphere * radius[:, None] * np.asarray(semi), np.full(
        count, volume / count
    )


def shell(centre: ArrayLike, semi: ArrayLike, thickness: float) -> tuple[np.ndarray, np.ndarray]:
    """Sample the surface of an ellipsoid: points (n, 3) mm, area × thickness (n,) mm³."""
    axes = np.asarray(semi, float)
    count = int(4 * np.pi * np.mean(axes) ** 2 / SPACING**2)
    k = np.arange(count) + 0.5
    height, angle = 1 - 2 * k / count, k * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - height**2)
    normal = np.stack([ring * np.cos(angle), height, ring * np.sin(angle)], 1)
    area = np.prod(axes) * np.linalg.norm(normal / axes, axis=1) * 4 * np.pi / count
    depth = 1 - thickness / axes.mean() * ((k * 0.7548776662) % 1)  # spread through the thickness
    return np.asarray(centre) + normal * axes * depth[:, None], area * thickness


def plate(grid: ArrayLike, thickness: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Sample a curved plate through a grid of control points.

    Args:
      grid: (m, n, 3) mm.
      thickness: (m, n) mm; thick rims are what makes an iliac crest or a scapula border bright.

    Returns:
      points (k, 3) mm and area × thickness (k,) mm³.
    """
    knots = np.asarray(grid, float)
    m, n = knots.shape[:2]
    u, v = np.linspace(0, 1, m), np.linspace(0, 1, n)
    long_u = np.max(np.linalg.norm(np.diff(knots, axis=0), axis=2).sum(axis=0))
    long_v = np.max(np.linalg.norm(np.diff(knots, axis=1), axis=2).sum(axis=1))
    su, sv = int(long_u / SPACING) + 2, int(long_v / SPACING) + 2
    fine_u, fine_v = (np.arange(su) + 0.5) / su, (np.arange(sv) + 0.5) / sv

    def spline(values: np.ndarray, order: int) -> RectBivariateSpline:
        return RectBivariateSpline(u, v, values, kx=min(order, m - 1), ky=min(order, n - 1))

    surface = [spline(knots[..., axis], 2) for axis in range(3)]
    points = np.stack([s(fine_u, fine_v) for s in surface], -1)
    du = np.stack([s(fine_u, fine_v, dx=1) for s in surface], -1)
    dv = np.stack([s(fine_u, fine_v, dy=1) for s in surface], -1)
    area = np.linalg.norm(np.cross(du, dv), axis=2) / su / sv
    thick = spline(np.asarray(thickness, float), 1)(fine_u, fine_v)
    normal = np.cross(du, dv)
    normal /= np.maximum(np.linalg.norm(normal, axis=2, keepdims=True), 1e-6)
    jitter = ((np.arange(su * sv) * 0.618034) % 1 - 0.5).reshape(su, sv, 1)
    points = points + normal * jitter * thick[..., None]
    return points.reshape(-1, 3), (area * thick).ravel()
