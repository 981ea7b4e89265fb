"""The drawn patient: every class there, each organ on its side, tumours inside organs, tissue as bright as tissue."""

import numpy as np
import pytest
from scipy import ndimage

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.phantom.anatomy import make_phantom

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module", params=SEEDS)
def phantom(request):
    return make_phantom(request.param)


def centre(mask):
    return np.array(ndimage.center_of_mass(mask))


def test_all_classes_are_there(phantom):
    assert tuple(phantom.masks) == UNIVERSAL.names
    sizes = {name: int(mask.sum()) for name, mask in phantom.masks.items()}
    assert min(sizes.values()) >= 10, sizes


def test_the_grid_is_that_of_the_field_of_view(phantom):
    assert phantom.image.shape == (66, 48, 93)
    assert phantom.image.dtype == np.int16
    assert phantom.spacing_mm == (5, 5, 6)


def test_a_substructure_lies_within_its_organs(phantom):
    for row in UNIVERSAL:
        if row.parents:
            organs = np.any([phantom.masks[parent] for parent in row.parents], axis=0)
            assert not (phantom.masks[row.name] & ~organs).any(), row.name


def test_organs_do_not_overlap(phantom):
    organs = [phantom.masks[row.name] for row in UNIVERSAL if not row.parents]
    assert np.sum(organs, axis=0).max() == 1


def test_tumours_and_vessels_do_not_overlap(phantom):
    children = [phantom.masks[row.name] for row in UNIVERSAL if row.parents]
    assert np.sum(children, axis=0).max() == 1


def test_right_is_where_x_is_large(phantom):
    for row in UNIVERSAL:
        if row.name.startswith("right_"):
            assert centre(phantom.masks[row.name])[0] > centre(phantom.masks[row.partner])[0], row.name
    assert centre(phantom.masks["liver"])[0] > centre(phantom.masks["stomach"])[0] > 0
    assert centre(phantom.masks["liver"])[0] > centre(phantom.masks["spleen"])[0]


def test_front_is_where_y_is_large_and_head_where_z_is_large(phantom):
    z = {name: centre(mask)[2] for name, mask in phantom.masks.items()}
    assert z["left_lung"] > z["liver"] > z["intestine"] > z["bladder"] > z["prostate"]
    assert centre(phantom.masks["bladder"])[1] > centre(phantom.masks["rectum"])[1]
    assert centre(phantom.masks["liver"])[1] > centre(phantom.extras["bone"][:, :, 50:])[1]


def test_hounsfield_values_are_those_of_the_tissue(phantom):
    def inner(name):
        """Away from partial volume, without what lies inside the organ."""
        mask = phantom.masks[name].copy()
        for child in UNIVERSAL.descendants(name):
            mask &= ~ndimage.binary_dilation(phantom.masks[child])
        eroded = ndimage.binary_erosion(mask)
        return float(np.median(phantom.image[eroded if eroded.sum() > 20 else mask]))

    assert -900 < inner("right_lung") < -700
    assert 70 < inner("liver") < 150
    assert -30 < inner("bladder") < 40
    assert 100 < inner("aorta") < 250
    assert inner("left_femur_head") > 300
    assert np.median(phantom.image[:, -1, :]) < -900  # air in front of the patient
    assert phantom.image.min() >= -1100 and phantom.image.max() <= 1500


def test_a_seed_gives_the_same_voxels_and_another_seed_another_patient():
    first, again, other = (make_phantom(seed) for seed in (7, 7, 8))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.affine, again.affine)
    assert all(np.array_equal(first.masks[name], again.masks[name]) for name in UNIVERSAL.names)
    assert np.mean(first.image == other.image) < 0.2
    overlap = 2 * (first.masks["spleen"] & other.masks["spleen"]).sum()
    assert overlap / (first.masks["spleen"].sum() + other.masks["spleen"].sum()) < 0.9


def test_positions_learned_by_heart_do_not_find_the_organs():
    masks = [make_phantom(seed).masks for seed in range(6)]
    for name, limit in (("left_kidney", 0.75), ("pancreas", 0.6), ("celiac_trunk", 0.4), ("liver_tumor", 0.1)):
        votes = np.mean([mask[name] for mask in masks[:-1]], axis=0) > 0.4
        truth = masks[-1][name]
        assert 2 * (votes & truth).sum() / (votes.sum() + truth.sum()) < limit, name


def test_a_missing_kidney_leaves_the_rest_alone():
    whole, single = make_phantom(3), make_phantom(3, missing={"left_kidney"})
    assert not single.masks["left_kidney"].any()
    assert single.masks["kidney_tumor"].any()
    assert not (single.masks["kidney_tumor"] & ~single.masks["right_kidney"]).any()
    for name in ("liver", "right_lung", "aorta", "bladder"):
        assert np.array_equal(whole.masks[name], single.masks[name])


def test_tumours_can_be_left_out():
    lesions = [row.name for row in UNIVERSAL if "tumor" in row.name or "cyst" in row.name]
    none = make_phantom(2, tumours=False)
    assert not any(none.masks[name].any() for name in lesions)
    assert none.masks["hepatic_vessel"].any()
    one = make_phantom(2, tumours={"liver_tumor"})
    assert [name for name in lesions if one.masks[name].any()] == ["liver_tumor"]


@pytest.mark.parametrize("pair", ["kidneys", "lungs"])
@pytest.mark.parametrize("seed", [0, 3])
def test_fused_pairs_are_one_component_and_apart_otherwise(pair, seed):
    names = {"kidneys": ("right_kidney", "left_kidney"), "lungs": ("right_lung", "left_lung")}[pair]

    def parts(phantom):
        labelled, count = ndimage.label(phantom.masks[names[0]] | phantom.masks[names[1]])
        return sum(np.bincount(labelled.ravel())[1:] > 100)

    assert parts(make_phantom(seed, tumours=False, fused={pair})) == 1
    assert parts(make_phantom(seed, tumours=False)) >= 2


def test_coarse_grids_keep_every_class():
    coarse = make_phantom(1, (9, 9, 9))
    assert min(mask.sum() for mask in coarse.masks.values()) >= 1


def test_unknown_names_are_refused():
    with pytest.raises(AssertionError, match="left_kindey"):
        make_phantom(0, missing={"left_kindey"})
