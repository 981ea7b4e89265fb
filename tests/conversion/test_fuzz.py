"""Damaged downloads of every source: each one is refused, or repaired as documented, never converted silently wrong."""

import gzip
import shutil
from collections import Counter

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.conversion.case import PENDING_UNKNOWN, convert_case
from nnunetv2_clip.conversion.merge import Input, Merge
from nnunetv2_clip.conversion.target import Target
from nnunetv2_clip.dataset_conversion.registry import all_sources
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import stem
from nnunetv2_clip.labels import LabelTable
from nnunetv2_clip.phantom.layouts.base import layout_names, write_source

pytestmark = pytest.mark.slow
SPACING_MM = {"ircadb": (9.0, 9.0, 20.0)}  # a DICOM series per structure
DEFAULT_SPACING_MM = (9.0, 9.0, 10.0)
OPTIONS = {"lits": {"numbers": (0, 48)}, "ct_org": {"numbers": (0, 48)}}
SOURCES = sorted(set(all_sources()) & set(layout_names()) - {"unlabelled"})  # nothing contradicts an image alone
MIN_DAMAGES = 960
MAX_VICTIMS = 3  # some sources have a file per structure, all read alike
# Not every scan of the download has a label; the number of cases, which convert and check print, tells of a lost one.
PARTLY_LABELLED = {"gibson_pancreas_ct"}
ACCEPTED = {"refused", "repaired", "harmless", "class unknown", "left out"}
COUNTS: Counter[str] = Counter()
NAMED = "not converted, and the command says so"


def edit(change):
    """Damage of a NIfTI file by a function of (array, affine)."""

    def damage(path):
        image = nib.load(path)
        data, affine = change(np.asanyarray(image.dataobj).copy(), image.affine.copy())
        nib.save(nib.Nifti1Image(data, affine), path)

    return damage


def with_voxel(value, dtype):
    def change(data, affine):
        data = data.astype(dtype)
        data[tuple(size // 2 for size in data.shape)] = value
        return data, affine

    return change


def scaled(*factors):
    return lambda data, affine: (data, affine @ np.diag([*factors, 1.0]))


def moved(data, affine):
    affine[:3, 3] += 40
    return data, affine


def sheared(data, affine):
    shear = np.eye(4)
    shear[0, 1] = 0.3
    return data, affine @ shear


def singular(path):
    image = nib.load(path)
    broken = nib.Nifti1Image(np.asanyarray(image.dataobj).copy(), None)  # the file is about to be overwritten
    broken.header.set_sform(np.diag([0, 0, 0, 1.0]), 1)
    broken.header["srow_x"] = broken.header["srow_y"] = broken.header["srow_z"] = 0
    nib.save(broken, path)


def cut(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip_bytes(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    path.write_bytes(bytes(content))


def unknown_code(path):
    packed = path.name.endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    content[252:256] = (77).to_bytes(2, "little") * 2  # qform_code and sform_code
    path.write_bytes(gzip.compress(bytes(content), 1) if packed else bytes(content))


ANY_FILE = {
    "cut to half": cut(0.5),
    "last bytes lost": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "web page": lambda path: path.write_text("<html>please log in</html>"),
    "missing": lambda path: path.unlink(),
}
NIFTI = {
    "four axes": edit(lambda data, affine: (np.stack([data, data], 3), affine)),
    "two axes": edit(lambda data, affine: (data[:, :, data.shape[2] // 2], affine)),
    "last slice lost": edit(lambda data, affine: (data[:, :, :-1], affine)),
    "axes exchanged": edit(lambda data, affine: (data.transpose(1, 2, 0).copy(), affine)),
    "complex numbers": edit(lambda data, affine: (data.astype(np.complex64), affine)),
    "NaN": edit(with_voxel(np.nan, np.float32)),
    "no voxel size": singular,
    "unknown position codes": unknown_code,
}
# Of one of two files of a case: the other one tells.
NIFTI_HEADER = {
    "other origin": edit(moved),
    "other spacing": edit(scaled(1, 1, 2)),
    "mirrored direction": edit(scaled(-1, 1, 1)),
    "wrong direction cosines": edit(sheared),
}
NIFTI_IMAGE = {"one value": edit(lambda data, affine: (data * 0, affine))}
NIFTI_LABEL = {
    "foreign value": edit(with_voxel(77, np.int16)),
    "negative value": edit(with_voxel(-3, np.int16)),
    "half a label": edit(with_voxel(0.5, np.float32)),
    "probabilities": edit(lambda data, affine: ((data > 0) * np.float32(0.7), affine)),
}
# Flipped bytes in a compressed file break its checksum; plain files carry none.
COMPRESSED = {"flipped bytes": flip_bytes}


def dicom(**attributes):
    def damage(path):
        dataset = pydicom.dcmread(path)
        for name, value in attributes.items():
            setattr(dataset, name, value)
        dataset.save_as(path)

    return damage


def shift_slice(path):
    dataset = pydicom.dcmread(path)
    dataset.ImagePositionPatient = [value + 3 for value in dataset.ImagePositionPatient]
    dataset.save_as(path)


def smaller_slice(path):
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Rows - 1
    dataset.PixelData = dataset.PixelData[: -2 * dataset.Columns]
    dataset.save_as(path)


def repeat_slice(path):
    shutil.copy(path, path.with_name(f"{path.name.split('.')[0]}9999{path.suffix}"))


DICOM = {
    "slice of another series": dicom(SeriesInstanceUID="1.2.3.4.5"),
    "slice in another direction": dicom(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]),
    "slice of another voxel size": dicom(PixelSpacing=[0.5, 0.5]),
    "slice displaced": shift_slice,
    "slice of another size": smaller_slice,
    "slice twice": repeat_slice,
}


def grey(path):
    pixels = np.asarray(Image.open(path).convert("L")).copy()
    pixels[0, :3] = (63, 126, 189)
    Image.fromarray(pixels).save(path)


def smaller_picture(path):
    picture = Image.open(path)
    picture.crop((0, 0, picture.width - 1, picture.height)).save(path)


PNG = {"grey values": grey, "picture of another size": smaller_picture}


def damages(path, is_image):
    """(name, damage) of everything that can happen to a file."""
    found = dict(ANY_FILE)
    if path.name.endswith((".nii", ".nii.gz")):
        found |= NIFTI | NIFTI_HEADER | (NIFTI_IMAGE if is_image else NIFTI_LABEL)
        if path.suffix == ".gz":
            found |= COMPRESSED
    elif path.suffix == ".png":
        found |= PNG
    elif path.suffix != ".csv":
        found |= DICOM
    return found.items()


def victims(case):
    """(file, is it of the image) of the files of a case that are damaged: the middle one of a folder."""
    for role, path in list(case.files.items())[:MAX_VICTIMS]:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
            path = inside[len(inside) // 2]
        yield path, role == "image"


def outcome(source, root, target, damaged_case):
    """The converted case, NAMED or None if it is not found any more; a UserError where anything is refused."""
    cases = {case.case_id: case for case in source.find_cases(root)}
    if damaged_case not in cases:
        number = damaged_case.removeprefix(f"{source.name}_")
        return NAMED if number in " ".join(source.remarks(root, list(cases.values()))) else None
    case = cases[damaged_case]
    source.check_case(case)
    merge = Merge((Input(source, root),), target, UNIVERSAL, copy_images=True)
    convert_case(merge.job, case)
    record = target.read_record(damaged_case)
    table = LabelTable(merge.job.known_sets + tuple(map(frozenset, record.new_sets)))
    label, image = nib.load(target.own_label(damaged_case)), nib.load(target.image(damaged_case))
    label_map, annotated = np.asanyarray(label.dataobj), record.presence.annotated
    return {
        "masks": {name: np.isin(label_map, table.values_of(name)) for name in annotated},
        "unknown": label_map == PENDING_UNKNOWN,
        "image": np.asanyarray(image.dataobj),
        "affine": image.affine,
        "fixes": set(record.presence.geometry_fixes),
    }


def judge(before, after, name):
    """What became of a damage that was not refused. A class may become unknown, but no voxel may change its class."""
    if after == NAMED:
        return "left out"
    if after is None:
        return "left out" if name in PARTLY_LABELLED else "vanished without a word"
    same = all(np.array_equal(before[key], after[key]) for key in ("image", "unknown"))
    same &= all(np.array_equal(mask, before["masks"].get(name)) for name, mask in after["masks"].items())
    lies_elsewhere = not np.allclose(before["affine"], after["affine"], atol=1e-3)
    if not same or (lies_elsewhere and not after["fixes"] - before["fixes"]):
        return "silently wrong"
    if lies_elsewhere:
        return "repaired"
    return "harmless" if set(after["masks"]) == set(before["masks"]) else "class unknown"


@pytest.mark.parametrize("name", SOURCES)
def test_no_damage_is_converted_silently_wrong(name, tmp_path):
    source = all_sources()[name]
    spacing = SPACING_MM.get(name, DEFAULT_SPACING_MM)
    written = write_source(name, tmp_path / "intact", (1, 2), spacing_mm=spacing, **OPTIONS.get(name, {}))
    target = Target(tmp_path / "raw" / "Dataset900_Fuzz", tmp_path / "preprocessed" / "Dataset900_Fuzz")
    with target.claim({}):
        pass
    case = source.find_cases(written.root)[0]
    before = outcome(source, written.root, target, case.case_id)
    wrong = []
    for path, is_image in victims(case):
        kept = path.read_bytes()
        siblings = set(path.parent.iterdir())
        for title, damage in damages(path, is_image):
            damage(path)
            try:
                found = judge(before, outcome(source, written.root, target, case.case_id), name)
            except UserError:
                found = "refused"
            COUNTS[found] += 1
            if found not in ACCEPTED:
                wrong.append(f"{title} of {stem(path)}: {found}")
            path.write_bytes(kept)
            for extra in set(path.parent.iterdir()) - siblings:
                extra.unlink()
    assert not wrong, f"{name}: {wrong}"


def test_enough_damages_were_tried(capsys):
    """Runs after the others of this file."""
    if not COUNTS:
        pytest.skip("the damages were tried in other processes")
    with capsys.disabled():
        print(f"\n{sum(COUNTS.values())} damaged inputs over {len(SOURCES)} sources: {dict(COUNTS)}")
    assert sum(COUNTS.values()) >= MIN_DAMAGES
