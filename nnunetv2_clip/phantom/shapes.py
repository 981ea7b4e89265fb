"""Shapes on a voxel grid: ellipsoids, tubes along curves, coils and smooth random fields, all in millimetres."""

# Shapes: X Y Z voxels of a RAS grid; P points.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.spatial import cKDTree

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """Half axes in mm, turned by `tilt_degrees` about the x, y and z axes."""

    centre: Point
    half_axes: Point
    tilt_degrees: Point = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Tube:
    """A tube along a smooth curve through `points`; the radius runs evenly from its first to its last value."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]


@dataclass(frozen=True)
class Coil:
    """A long tube that winds through an ellipsoidal region, as the small bowel does."""

    centre: Point
    half_axes: Point
    radius: float
    turns: float


Shape = Ellipsoid | Tube | Coil


def smooth_field(rng: np.random.Generator, shape: Sequence[int], spacing_mm: Sequence[float], length_mm: float):
    """(X, Y, Z) float32 random field with mean 0, values about -1..1, varying over `length_mm`."""
    knots = [max(4, int(np.ceil(n * s / length_mm)) + 1) for n, s in zip(shape, spacing_mm, strict=True)]
    values = rng.uniform(-1, 1, knots)
    for n, k in zip(shape, knots, strict=True):  # one axis after the other; each turn brings the next axis to the front
        weights = make_interp_spline(np.arange(k), np.eye(k), k=3)((np.arange(n) + 0.5) / n * (k - 1))
        values = np.tensordot(values, weights, axes=(0, 1))
    return values.astype(np.float32)


def rotation(degrees: Sequence[float]) -> np.ndarray:
    """(3, 3) rotation about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


class Grid:
    """The anatomical coordinates of every voxel, in which shapes are drawn.

    Args:
        coordinates: (3, X, Y, Z) float32, mm.
        min_radius_mm: thinner tubes are drawn with this radius, so that they do not vanish on a coarse grid.
    """

    def __init__(self, coordinates: np.ndarray, min_radius_mm: float):
        self.coordinates = coordinates
        self.min_radius_mm = min_radius_mm

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.coordinates.shape[1:]

    def draw(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        """(X, Y, Z) bool: the voxels inside the shape."""
        if isinstance(shape, Ellipsoid):
            return self.ellipsoid_level(shape) < 1
        if isinstance(shape, Coil):
            return self._tube(_coil_points(shape, rng), np.array([shape.radius]))
        return self._tube(np.array(shape.points, dtype=np.float64), np.array(shape.radii))

    def ellipsoid_level(self, shape: Ellipsoid) -> np.ndarray:
        """(X, Y, Z) float32: 0 at the centre, 1 on the surface."""
        x, y, z = (axis - np.float32(c) for axis, c in zip(self.coordinates, shape.centre, strict=True))
        rows = (rotation(shape.tilt_degrees).T / np.array(shape.half_axes)[:, None]).astype(np.float32)
        return np.sqrt(sum((row[0] * x + row[1] * y + row[2] * z) ** 2 for row in rows))

    def _tube(self, points: np.ndarray, radii: np.ndarray) -> np.ndarray:
        centres = _smooth_curve(points)
        along = np.linspace(0, 1, len(centres))
        radius = np.interp(along, np.linspace(0, 1, len(radii)), radii).clip(self.min_radius_mm)
        low, high = centres.min(0) - radius.max(), centres.max(0) + radius.max()
        near = np.ones(self.shape, dtype=bool)
        for axis, a, b in zip(self.coordinates, low, high, strict=True):
            near &= (axis >= a) & (axis <= b)
        distance, nearest = cKDTree(centres).query(self.coordinates[:, near].T, distance_upper_bound=radius.max())
        inside = np.zeros(self.shape, dtype=bool)
        inside[near] = distance <= np.append(radius, 0.0)[nearest]
        return inside


def _smooth_curve(points: np.ndarray, step_mm: float = 2.0) -> np.ndarray:
    """(P, 3) points about `step_mm` apart on a spline through the given ones."""
    chord = np.append(0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    spline = make_interp_spline(chord, points, k=min(3, len(points) - 1))
    return spline(np.linspace(0, chord[-1], max(2, int(chord[-1] / step_mm) + 1)))


def _coil_points(shape: Coil, rng: np.random.Generator) -> np.ndarray:
    t = np.linspace(0, 1, int(shape.turns * 16))
    phases = rng.uniform(0, 2 * np.pi, 2)
    u = np.sin(2 * np.pi * shape.turns * t + phases[0])
    v = np.sin(2 * np.pi * shape.turns * rng.uniform(1.4, 1.8) * t + phases[1])
    w = 2 * t - 1
    width = np.sqrt(np.clip(1 - 0.7 * w**2, 0, 1))
    return np.array(shape.centre) + np.stack([u * width, v * width, w], axis=1) * np.array(shape.half_axes)
