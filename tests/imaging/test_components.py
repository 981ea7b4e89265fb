"""Connected components: neighbours over corners belong together, thin masks are no exception."""

import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.conversion.laterality import MidPlane, Sides, side_of_lesions, split_sides
from nnunetv2_clip.evaluation import lesions
from nnunetv2_clip.imaging.body import find_body
from nnunetv2_clip.imaging.components import (
    connected_components,
    contacts,
    keep_from_volume,
    keep_largest,
    keep_touching,
)
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.inference.postprocessing import Rule, apply_rule
from nnunetv2_clip.msd.post_processing import PostProcessing
from nnunetv2_clip.msd.tasks import find_task
from nnunetv2_clip.painting import unpaint

EMPTY, SINGLE = np.zeros((3, 4, 5), bool), np.zeros((3, 4, 5), bool)
SINGLE[1, 2, 3] = True
ALONE = np.ones((1, 1, 1), bool)
THIN = [np.moveaxis(np.array([1, 1, 0, 1, 0, 0, 1], bool)[:, None, None], 0, axis) for axis in range(3)]
SHEETS = [np.moveaxis(np.eye(4, dtype=bool)[None], 0, axis) for axis in range(3)]
MASKS = [EMPTY, SINGLE, ALONE, *THIN, *SHEETS]
every_mask = pytest.mark.parametrize("mask", MASKS, ids=lambda mask: f"{mask.sum()} voxels of {mask.shape}")


def test_voxels_that_share_a_corner_are_one_component():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    components, sizes = connected_components(mask)
    assert len(sizes) - 1 == 2
    assert components[0, 0, 0] == components[1, 1, 1] != components[3, 3, 3]


@pytest.mark.parametrize("axis", range(3))
def test_masks_of_one_voxel_width_work(axis):
    line = np.array([1, 0, 1, 1, 0, 1, 0, 1], bool)
    shape = [1, 1, 1]
    shape[axis] = len(line)
    components, sizes = connected_components(line.reshape(shape))
    assert len(sizes) - 1 == 4
    assert components.ravel().tolist() == [1, 0, 2, 2, 0, 3, 0, 4]


def test_empty_mask_has_none():
    assert connected_components(np.zeros((3, 3, 3), bool))[1].tolist() == [0]


@pytest.mark.parametrize("thin", THIN + SHEETS)
def test_neighbours_in_thin_maps_are_seen(thin):
    numbers = np.zeros(thin.shape, np.uint32)
    numbers[thin] = np.arange(1, thin.sum() + 1)
    expected = {(1, 2): 1} if thin.sum() == 4 and max(thin.shape) == 7 else {(1, 2): 1, (2, 3): 1, (3, 4): 1}
    assert contacts(numbers) == expected


def test_faces_alone_connect_on_demand():
    assert len(connected_components(SHEETS[0], connectivity=6)[1]) - 1 == 4
    assert len(connected_components(SHEETS[0])[1]) - 1 == 1


@every_mask
def test_the_rules_keep_what_a_mask_has(mask):
    assert (keep_largest(mask, 4) == mask).all()
    assert (keep_touching(mask, mask) == mask).all()
    assert not keep_touching(mask, np.zeros_like(mask)).any()
    assert (keep_from_volume(mask, 1, voxel_ml=1) == mask).all()
    assert not keep_from_volume(mask, 5, voxel_ml=1).any()


@every_mask
def test_learned_rules_take_every_mask(mask):
    whole = Mask.of(mask.shape, tuple(slice(0, size) for size in mask.shape), mask)
    assert (apply_rule(whole, Rule(largest_components=3), [whole]).full(bool) == mask).all()
    assert (apply_rule(whole, Rule(touches=("liver",)), [whole]).full(bool) == mask).all()


@every_mask
def test_rules_of_a_task_take_every_mask(mask):
    task, rules = find_task("Task03_Liver", ""), PostProcessing(("liver",), ("liver_tumor",), {"liver": 0.5})
    kept = rules.apply(mask.astype(np.uint8), task, voxel_ml=1.0)
    assert kept.any() == mask.any()
    assert not rules.apply(2 * mask.astype(np.uint8), task, voxel_ml=0.1).any()


@every_mask
def test_every_mask_can_be_unpainted(mask):
    tumour = UNIVERSAL.find("kidney_tumor").index
    masks = unpaint(mask * np.uint8(tumour), UNIVERSAL, ("kidney_tumor", "right_kidney", "left_kidney"))
    assert (masks.mask("kidney_tumor") == mask).all()
    assert not masks.mask("right_kidney").any()


@every_mask
def test_lesions_of_every_mask_are_counted(mask):
    numbers, sizes = lesions._components(mask, min_voxels=1)
    assert ((numbers > 0) == mask).all()
    assert sizes.sum() == mask.sum()


@every_mask
def test_every_mask_can_be_split_into_sides(mask):
    image = Volume(np.where(mask, 40, -1000).astype(np.int16), np.diag([-4.0, -4.0, 4.0, 1.0]))
    assert find_body(image).mask.shape == mask.shape
    plane = MidPlane(np.full(mask.shape[2], -9.0), image.affine, True, "")
    sides = split_sides(mask, image, plane)
    assert isinstance(sides, Sides)
    assert ((sides.right | sides.left) == mask).all()
    right, left = side_of_lesions(mask, sides)
    assert ((right | left) == mask).all()
