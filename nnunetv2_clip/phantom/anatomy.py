"""A synthetic CT from mid-thorax to pelvis with all 32 universal classes, drawn from random parameters.

The body stands in anatomical millimetres: x grows towards the patient's right (0 is the mid-plane), y towards the
front (0 is the centre of the body), z towards the head (0 is the lower end of the scan). Every structure is a few
shapes with a random shift and size; one smooth random deformation bends all of them together.
"""

# Shapes: X Y Z voxels, RAS.

import zlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.phantom.shapes import Coil, Ellipsoid, Grid, Shape, Tube, rotation, smooth_field

DEFAULT_SPACING_MM = (5.0, 5.0, 6.0)
DEFAULT_BODY_MM = (330.0, 240.0, 560.0)


@dataclass
class Phantom:
    """A synthetic CT and the truth about it.

    Attributes:
        image: (X, Y, Z) int16, Hounsfield units, RAS.
        masks: class -> (X, Y, Z) bool, for all 32 classes; an organ includes its tumours, cysts and vessels.
            The mask of a class that this patient lacks is empty.
        extras: what is no class but labelled by some source: "bone" (femur heads included), "heart", "skin" (the
            whole body).
        affine: (4, 4) voxel to world, mm.
        seed: what it was drawn from.
    """

    image: np.ndarray
    masks: dict[str, np.ndarray]
    extras: dict[str, np.ndarray]
    affine: np.ndarray
    seed: int

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))


@dataclass(frozen=True)
class Organ:
    """How a structure looks: mean Hounsfield value, shapes, largest random shift in mm, contents."""

    hu: float
    shapes: tuple[Shape, ...]
    shift_mm: float = 7.0
    holes: tuple[Shape, ...] = ()
    gas: float = 0.0  # part of the structure that is filled with gas
    enhanced: bool = False  # brightness follows the contrast agent


@dataclass(frozen=True)
class Lesion:
    """A tumour or cyst: mean Hounsfield values of core and rim, range of radii in mm."""

    hu: float
    rim_hu: float
    radii_mm: tuple[float, float]
    bulges: bool = False  # may leave the surface of its organ


# In painting order: a later structure takes the voxels of an earlier one.
ORGANS: dict[str, Organ] = {
    "right_lung": Organ(-820, (Ellipsoid((70, -4, 520), (56, 76, 135)),), 4),
    "left_lung": Organ(-820, (Ellipsoid((-70, -4, 520), (54, 74, 132)),), 4),
    "intestine": Organ(45, (Coil((0, 30, 195), (76, 38, 62), 13, 6.0),), 8, gas=0.1),
    "colon": Organ(
        20,
        (
            Tube(((95, 8, 150), (103, -8, 200), (100, -5, 250), (94, 22, 290)), (24, 20, 18)),
            Tube(((94, 22, 290), (55, 62, 268), (0, 72, 262), (-55, 58, 285), (-96, 8, 325)), (19, 17)),
            Tube(((-96, 8, 325), (-106, -18, 280), (-106, -20, 210), (-92, -5, 150)), (17, 15)),
            Tube(((-92, -5, 150), (-55, 22, 120), (-30, -5, 140), (-8, -38, 132)), (15, 15)),
        ),
        gas=0.45,
    ),
    "rectum": Organ(35, (Tube(((-8, -40, 128), (0, -60, 95), (0, -56, 60), (0, -44, 15)), (16, 20, 13)),), 4, gas=0.15),
    "bladder": Organ(6, (Ellipsoid((0, 22, 84), (38, 30, 30)),)),
    "prostate": Organ(62, (Ellipsoid((0, 6, 36), (24, 19, 19)),), 3),
    "liver": Organ(
        112, (Ellipsoid((68, 2, 372), (60, 72, 74), (0, 12, 0)), Ellipsoid((8, 34, 392), (72, 34, 40), (0, -8, -10)))
    ),
    "spleen": Organ(125, (Ellipsoid((-98, -34, 378), (24, 40, 54), (12, 14, 0)),), 8),
    "stomach": Organ(
        28,
        (
            Tube(
                ((-34, -8, 424), (-62, 2, 420), (-74, 26, 385), (-50, 46, 345), (-5, 48, 330), (28, 38, 332)),
                (20, 34, 32, 24, 14),
            ),
        ),
        gas=0.3,
    ),
    "right_kidney": Organ(
        175,
        (Ellipsoid((68, -40, 296), (27, 25, 54), (6, 10, 20)),),
        8,
        holes=(Ellipsoid((44, -32, 298), (16, 10, 18)),),
        enhanced=True,
    ),
    "left_kidney": Organ(
        175,
        (Ellipsoid((-64, -40, 312), (27, 25, 54), (6, -10, -20)),),
        8,
        holes=(Ellipsoid((-40, -32, 314), (16, 10, 18)),),
        enhanced=True,
    ),
    "pancreas": Organ(
        90, (Tube(((40, 12, 302), (36, 14, 325), (8, 18, 335), (-28, 10, 350), (-74, -12, 364)), (17, 13, 11, 12)),), 5
    ),
    "duodenum": Organ(
        55,
        (Tube(((30, 36, 336), (62, 18, 328), (66, 6, 298), (50, 0, 270), (0, -4, 268), (-26, 8, 290)), (12, 11)),),
        4,
    ),
    "gallbladder": Organ(8, (Ellipsoid((60, 46, 326), (15, 15, 28), (20, 15, 0)),), 6),
    "esophagus": Organ(48, (Tube(((-4, -34, 580), (-8, -32, 490), (-12, -24, 440), (-34, -10, 420)), (9, 9)),), 3),
    "postcava": Organ(
        150, (Tube(((18, -8, 462), (26, -30, 425), (25, -36, 340), (22, -38, 205)), (13, 12)),), 3, enhanced=True
    ),
    "aorta": Organ(
        190, (Tube(((-18, -44, 580), (-14, -42, 400), (-8, -38, 300), (-4, -36, 205)), (13, 10)),), 3, enhanced=True
    ),
    "portal_and_splenic_vein": Organ(
        165,
        (Tube(((-76, -24, 368), (-30, -8, 352), (8, -2, 336), (30, 4, 352), (50, 8, 372)), (7, 8, 8)),),
        3,
        enhanced=True,
    ),
    "right_adrenal_gland": Organ(70, (Tube(((34, -52, 352), (38, -38, 374), (50, -54, 356)), (5.5, 6.5, 5.5)),), 3),
    "left_adrenal_gland": Organ(70, (Tube(((-34, -52, 356), (-38, -36, 378), (-50, -50, 362)), (5.5, 6.5, 5.5)),), 3),
    "celiac_trunk": Organ(
        205,
        (
            Tube(((-11, -32, 362), (-10, -6, 366)), (5.5, 5.0)),
            Tube(((-30, -2, 372), (-10, -6, 366), (18, 2, 376)), (4.5, 5.0, 4.5)),
        ),
        2,
        enhanced=True,
    ),
    "left_femur_head": Organ(430, (Ellipsoid((-90, 2, 62), (25, 25, 25)),), 4),
    "right_femur_head": Organ(430, (Ellipsoid((90, 2, 62), (25, 25, 25)),), 4),
}

LESIONS: dict[str, Lesion] = {
    "kidney_tumor": Lesion(85, 95, (12, 22), bulges=True),
    "kidney_cyst": Lesion(5, 5, (9, 16), bulges=True),
    "liver_tumor": Lesion(55, 65, (10, 22)),
    "hepatic_vessel_tumor": Lesion(20, 190, (11, 19)),
    "pancreas_tumor": Lesion(42, 50, (9, 14)),
    "lung_tumor": Lesion(35, 25, (9, 20)),
    "colon_tumor": Lesion(85, 85, (14, 20)),
}
LIVER_HILUM, HEPATIC_VEINS = (50, 8, 372), (28, -24, 425)
FUSED_SHAPES: dict[str, tuple[Shape, ...]] = {
    "kidneys": (Tube(((56, -30, 262), (0, -14, 250), (-52, -30, 270)), (15, 11, 15)),),
    "lungs": (Ellipsoid((0, 62, 505), (62, 16, 55)),),
}
PAIRS = {"kidneys": ("right_kidney", "left_kidney"), "lungs": ("right_lung", "left_lung")}


@dataclass
class _Drawing:
    """What is known while a phantom is drawn; `hu` is the noise-free image, `owner` the organ of each voxel."""

    seed: int
    spacing_mm: tuple[float, float, float]
    grid: Grid
    contrast: float
    cavity: np.ndarray
    hu: np.ndarray
    owner: np.ndarray
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    extras: dict[str, np.ndarray] = field(default_factory=dict)

    def rng(self, name: str) -> np.random.Generator:
        return generator(self.seed, name)


def generator(seed: int, name: str) -> np.random.Generator:
    """An own stream of random numbers for each structure: leaving one out does not change the others."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def make_phantom(
    seed: int,
    spacing_mm_xyz: tuple[float, float, float] = DEFAULT_SPACING_MM,
    body_mm_xyz: tuple[float, float, float] = DEFAULT_BODY_MM,
    tumours: bool | Collection[str] = True,
    missing: Collection[str] = (),
    fused: Collection[str] = (),
) -> Phantom:
    """Draw one patient; the same arguments give the same voxels.

    Args:
        seed: any non-negative integer.
        spacing_mm_xyz: voxel size.
        body_mm_xyz: field of view; the body is scaled to fill it.
        tumours: all tumours and cysts, none, or the classes named.
        missing: classes that this patient lacks (`{"left_kidney"}` is a single kidney).
        fused: "kidneys" joins them in front of the spine (a horseshoe kidney), "lungs" lets them touch behind the
            breastbone. The border of the two classes is the mid-plane of the body.
    """
    lesions = set(LESIONS) if tumours is True else set(tumours or ())
    unknown = (lesions - set(LESIONS)) | (set(missing) - set(UNIVERSAL.names)) | (set(fused) - set(PAIRS))
    assert not unknown, f"unknown structures {sorted(unknown)}"
    drawing, affine = _start(seed, spacing_mm_xyz, body_mm_xyz)
    _draw_organs(drawing, set(missing), set(fused))
    for name in LESIONS:
        if name in lesions and name not in missing:
            _draw_lesion(drawing, name)
    if "hepatic_vessel" not in missing and "liver" not in missing:
        _draw_hepatic_vessels(drawing)
    masks = {row.name: drawing.masks.get(row.name, np.zeros(drawing.grid.shape, dtype=bool)) for row in UNIVERSAL}
    return Phantom(_render(drawing), masks, _extras(drawing), affine, seed)


def _start(seed: int, spacing_mm, body_mm) -> tuple[_Drawing, np.ndarray]:
    """Coordinates, body wall, bones, heart and table: everything that is no class."""
    rng = generator(seed, "body")
    shape = tuple(max(1, round(size / step)) for size, step in zip(body_mm, spacing_mm, strict=True))
    fill = np.array(body_mm) / np.array(DEFAULT_BODY_MM)
    size = fill * rng.uniform((0.90, 0.88, 0.92), (1.06, 1.04, 1.04))
    shift = fill * rng.uniform((-8, 6, 0), (8, 12, 24))
    origin = np.array([-(n - 1) / 2 * s for n, s in zip(shape[:2], spacing_mm[:2], strict=True)] + [spacing_mm[2] / 2])
    world = [o + s * np.arange(n) for o, s, n in zip(origin, spacing_mm, shape, strict=True)]
    axes = [(w - d) / k for w, d, k in zip(world, shift, size, strict=True)]
    coordinates = np.stack(np.broadcast_arrays(*np.ix_(*axes))).astype(np.float32)
    turn = rotation(rng.uniform(-4, 4, 3)).astype(np.float32)
    pivot = np.array([0, 0, 280], dtype=np.float32).reshape(3, 1, 1, 1)
    coordinates = np.tensordot(turn, coordinates - pivot, axes=1) + pivot
    for axis in range(3):
        coordinates[axis] += 9 * smooth_field(rng, shape, np.array(spacing_mm) / fill, 90.0)
    grid = Grid(coordinates, 0.6 * float(max(np.array(spacing_mm) / size)))
    drawing = _Drawing(
        seed=seed,
        spacing_mm=tuple(float(s) for s in spacing_mm),
        grid=grid,
        contrast=float(rng.uniform(0.8, 1.15)),
        cavity=np.zeros(shape, dtype=bool),
        hu=np.full(shape, -1000, dtype=np.float32),
        owner=np.zeros(shape, dtype=np.uint8),
    )
    table_top_mm = float(shift[1] - 110 * size[1])
    table = (axes[1] * size[1] + shift[1] < table_top_mm) & (axes[1] * size[1] + shift[1] > table_top_mm - 9)
    drawing.hu[np.abs(axes[0]) < 130] = np.where(table, 120, -1000)[None, :, None]
    _draw_body(drawing, rng)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = origin + np.round(rng.uniform(-60, 60, 3), 1)
    return drawing, affine


def _draw_body(drawing: _Drawing, rng: np.random.Generator) -> None:
    """Skin, fat, muscle, bones and heart, in this order."""
    grid, hu = drawing.grid, drawing.hu
    x, y, z = grid.coordinates
    waist = 1 - rng.uniform(0.02, 0.07) * np.exp(-(((z - 250) / 80) ** 2))
    level = ((np.abs(x) / 148) ** 2.5 + (np.abs(y) / 106) ** 2.5) ** np.float32(0.4) / waist
    fat = rng.uniform(0.87, 0.95)
    hu[level < 1] = -105
    hu[(level < fat) & (level > fat - 0.09)] = 52
    drawing.cavity = level < fat - 0.06
    hu[level < fat - 0.09] = -92
    pelvic_floor = (z < 150) & (level < fat) & ((np.abs(x) > 52 + 0.25 * z) | (y < -52 + 0.1 * z) | (z < 18))
    psoas = (np.abs(x) > 20) & (np.abs(x) < 48) & (np.abs(y + 50) < 18) & (z < 290) & (z > 60)
    hu[pelvic_floor | psoas] = 55
    bone = np.zeros(grid.shape, dtype=bool)
    rib_shell = np.abs(level - (fat - 0.06)) < 0.05
    bone |= rib_shell & (z > 310 + 0.4 * np.abs(y)) & (np.sin((z - 0.35 * y) * (2 * np.pi / 30)) > 0.35)
    bone |= ((x / 21) ** 2 + ((y + 66) / 18) ** 2 < 1) & (z > 110)
    bone |= (np.abs(x) < 6) & (np.abs(y + 92) < 12) & (np.mod(z, 34) < 20) & (z > 110)
    bone |= ((x / 40) ** 2 + ((y + 70 + 0.1 * (z - 100)) / 10) ** 2 < 1) & (z > 55) & (z <= 125)
    wing = grid.ellipsoid_level(Ellipsoid((0, -2, 128), (112, 72, 92)))
    bone |= (np.abs(wing - 1) < 0.075) & (y < 20) & (np.abs(x) > 40) & (z > 84) & (z < 200)
    for side in (-1, 1):
        socket = grid.ellipsoid_level(Ellipsoid((side * 86, 0, 70), (38, 36, 36)))
        bone |= (socket < 1) & (socket > 0.72) & (side * x < 92)
        bone |= grid.draw(Tube(((side * 90, 2, 62), (side * 112, -6, 34), (side * 112, -6, -30)), (16, 15)), rng)
    hu[bone] = 330
    disc = ((x / 21) ** 2 + ((y + 66) / 18) ** 2 < 1) & (z > 110) & (np.mod(z, 34) > 27)
    hu[disc] = 90
    hu[(x**2 + (y + 84) ** 2 < 64) & (z > 110)] = 25
    heart = grid.draw(Ellipsoid((-18, 30, 505), (48, 46, 62), (0, -20, 0)), rng)
    mediastinum = grid.draw(Ellipsoid((0, -22, 530), (24, 40, 130)), rng)
    hu[mediastinum & drawing.cavity & ~bone] = -60
    hu[heart & drawing.cavity] = 150 * drawing.contrast
    drawing.extras = {"bone": bone, "heart": heart & drawing.cavity & ~bone, "skin": level < 1}
    drawing.cavity &= ~bone & ~heart & ~disc
    drawing.cavity |= (level < fat) & (z < 110) & (np.abs(x) > 50)  # room for the femur heads


def _extras(drawing: _Drawing) -> dict[str, np.ndarray]:
    """Bone and heart without the organs that were painted over them."""
    heads = np.any([drawing.masks.get(f"{side}_femur_head", False) for side in ("left", "right")], axis=0)
    free = drawing.owner == 0
    return {
        "bone": (drawing.extras["bone"] & free) | heads,
        "heart": drawing.extras["heart"] & free,
        "skin": drawing.extras["skin"],
    }


def _draw_organs(drawing: _Drawing, missing: set[str], fused: set[str]) -> None:
    gas_field = smooth_field(drawing.rng("gas"), drawing.grid.shape, drawing.spacing_mm, 35.0)
    names = list(ORGANS)
    for value, name in enumerate(names, start=1):
        if name in missing:
            continue
        organ, rng = ORGANS[name], drawing.rng(name)
        inside = _organ_mask(drawing, organ, rng)
        for pair in fused:
            if name in PAIRS[pair] and not missing.intersection(PAIRS[pair]):
                side = drawing.grid.coordinates[0] >= 0 if name.startswith("right") else drawing.grid.coordinates[0] < 0
                bridge = np.any([drawing.grid.draw(shape, rng) for shape in FUSED_SHAPES[pair]], axis=0)
                inside = inside | (bridge & side & (drawing.cavity | drawing.extras["heart"]))
        drawing.owner[inside] = value
        level = organ.hu * (drawing.contrast if organ.enhanced else 1) + rng.normal(0, 6)
        drawing.hu[inside] = level
        if organ.gas:
            drawing.hu[inside & (gas_field > np.quantile(gas_field[inside], 1 - organ.gas))] = -850
    for value, name in enumerate(names, start=1):
        if name not in missing:
            drawing.masks[name] = drawing.owner == value


def _organ_mask(drawing: _Drawing, organ: Organ, rng: np.random.Generator) -> np.ndarray:
    shift = rng.uniform(-organ.shift_mm, organ.shift_mm, 3)
    size = rng.uniform(0.86, 1.16)
    shapes = [_vary(shape, shift, size) for shape in organ.shapes]
    inside = np.any([drawing.grid.draw(shape, rng) for shape in shapes], axis=0) & drawing.cavity
    for hole in organ.holes:
        inside &= ~drawing.grid.draw(_vary(hole, shift, size), rng)
    return inside


def _vary(shape: Shape, shift: np.ndarray, size: float) -> Shape:
    """The shape moved, and thicker or thinner."""
    if isinstance(shape, Tube):
        points = tuple(tuple(np.add(point, shift)) for point in shape.points)
        return Tube(points, tuple(radius * size for radius in shape.radii))
    moved = replace(shape, centre=tuple(np.add(shape.centre, shift)))
    return replace(moved, half_axes=tuple(half * size for half in shape.half_axes))


def _draw_lesion(drawing: _Drawing, name: str) -> None:
    """A lumpy ellipsoid around a random voxel in the depth of one of the organs that can hold it."""
    lesion, rng, grid = LESIONS[name], drawing.rng(name), drawing.grid
    hosts = [parent for parent in UNIVERSAL.find(name).parents if parent in drawing.masks]
    if not hosts:
        return
    host = hosts[rng.integers(len(hosts))]
    taken = np.any([drawing.masks[other] for other in LESIONS if other in drawing.masks] or [False], axis=0)
    free = drawing.masks[host] & ~taken
    deep = ndimage.binary_erosion(free)
    if lesion.bulges or not deep.any():
        deep = free
    candidates = np.flatnonzero(deep)
    centre = grid.coordinates.reshape(3, -1)[:, candidates[rng.integers(len(candidates))]]
    half_axes = np.maximum(rng.uniform(*lesion.radii_mm) * rng.uniform(0.8, 1.2, 3), 2.2 * grid.min_radius_mm)
    lumps = 0.15 * smooth_field(rng, grid.shape, drawing.spacing_mm, 20.0)
    level = grid.ellipsoid_level(Ellipsoid(tuple(centre), tuple(half_axes), tuple(rng.uniform(-40, 40, 3)))) + lumps
    allowed = free | ((drawing.owner == 0) & drawing.cavity) if lesion.bulges else free
    inside = (level < 1) & allowed
    drawing.masks[name] = inside
    drawing.masks[host] = drawing.masks[host] | inside
    drawing.owner[inside] = list(ORGANS).index(host) + 1
    drawing.hu[inside] = np.where(level[inside] < 0.6, lesion.hu, lesion.rim_hu)


def _draw_hepatic_vessels(drawing: _Drawing) -> None:
    """Two trees inside the liver: portal branches from the hilum and hepatic veins from the postcava."""
    rng = drawing.rng("hepatic_vessel")
    lesions = [drawing.masks[name] for name in ("liver_tumor", "hepatic_vessel_tumor") if name in drawing.masks]
    free = drawing.masks["liver"] & ~np.any(lesions or [False], axis=0)
    ends = drawing.grid.coordinates.reshape(3, -1)[:, rng.choice(np.flatnonzero(free), 9)].T
    vessels = np.zeros(drawing.grid.shape, dtype=bool)
    for number, end in enumerate(ends):
        root = np.array(LIVER_HILUM if number % 3 else HEPATIC_VEINS, dtype=np.float64)
        bend = (root + end) / 2 + rng.uniform(-14, 14, 3)
        vessels |= drawing.grid.draw(Tube((tuple(root), tuple(bend), tuple(end)), (6.0, 3.5)), rng)
    drawing.masks["hepatic_vessel"] = vessels & free
    drawing.hu[vessels & free] = 185 * drawing.contrast


def _render(drawing: _Drawing) -> np.ndarray:
    """Texture, blur of the scanner, noise; int16 Hounsfield units."""
    rng = drawing.rng("noise")
    shape, spacing = drawing.grid.shape, drawing.spacing_mm
    texture = 8 * smooth_field(rng, shape, spacing, 16.0)
    image = drawing.hu + np.where(drawing.hu > -990, texture, 0)
    image = ndimage.gaussian_filter(image, [2.2 / step for step in spacing], mode="nearest")
    image += rng.normal(0, rng.uniform(8, 16), shape).astype(np.float32)
    return np.clip(np.rint(image), -1024, 2000).astype(np.int16)
