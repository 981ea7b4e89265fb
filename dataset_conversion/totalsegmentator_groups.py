"""The groups of structures of TotalSegmentator v1 as tables: classes of one's own, and where their masks are.

The dataset's authors trained one network for each group; the paper transfers to four of them (Table 6).
Source of the groups: Wasserthal et al., TotalSegmentator, 2023, version 1 with 104 structures.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from nnunetv2_clip.classes import FIRST_USER_INDEX, UNIVERSAL, normalise
from nnunetv2_clip.dataset_conversion.totalsegmentator import DAMAGED_V1, IMAGE, MASKS, WRONG_LABELS
from nnunetv2_clip.errors import UserError

SIDES = ("left", "right")


def _both(names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{side}" for name in names.split() for side in SIDES)


GROUPS: dict[str, tuple[str, ...]] = {
    "organs": (
        *("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "aorta", "inferior_vena_cava"),
        *("portal_vein_and_splenic_vein", "pancreas", "adrenal_gland_right", "adrenal_gland_left"),
        *("lung_upper_lobe_left", "lung_lower_lobe_left"),
        *("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
    ),
    "vertebrae": tuple(
        f"vertebrae_{part}{number}" for part, count in (("L", 5), ("T", 12), ("C", 7)) for number in range(count, 0, -1)
    ),
    "cardiac": (
        *("esophagus", "trachea", "heart_myocardium", "heart_atrium_left", "heart_ventricle_left"),
        *("heart_atrium_right", "heart_ventricle_right", "pulmonary_artery", "brain"),
        *_both("iliac_artery iliac_vena"),
        *("small_bowel", "duodenum", "colon", "urinary_bladder", "face"),
    ),
    "muscles": (
        *_both("humerus scapula clavicula femur hip"),
        "sacrum",
        *_both("gluteus_maximus gluteus_medius gluteus_minimus autochthon iliopsoas"),
    ),
}
# Words of the file names that a text encoder would not know -> the noun of the prompt, without its side.
NOUNS = {
    "autochthon": "autochthonous back muscle",
    "iliopsoas": "iliopsoas muscle",
    "gluteus maximus": "gluteus maximus muscle",
    "gluteus medius": "gluteus medius muscle",
    "gluteus minimus": "gluteus minimus muscle",
    "clavicula": "clavicle",
    "hip": "hip bone",
    "iliac vena": "iliac vein",
    "heart myocardium": "myocardium",
}


def prompt_noun(structure: str) -> str:
    """heart_atrium_left -> left heart atrium; vertebrae_L5 -> L5 vertebra."""
    words = structure.split("_")
    if words[0] == "vertebrae":
        return f"{words[1]} vertebra"
    side = next((word for word in words if word in SIDES), "")
    rest = " ".join(word for word in words if word not in SIDES)
    return f"{side} {NOUNS.get(rest, rest)}".strip()


def class_rows(structures: Iterable[str], first_index: int = FIRST_USER_INDEX) -> list[dict]:
    """Rows of a class table for the structures that are no universal class; left and right are partners."""
    own = [name for name in structures if normalise(name) not in UNIVERSAL]
    rows = []
    for index, structure in enumerate(own, start=first_index):
        row = {"index": index, "name": normalise(structure), "prompt": prompt_noun(structure)}
        side = next((word for word in structure.split("_") if word in SIDES), None)
        partner = structure.replace(side, SIDES[1 - SIDES.index(side)]) if side else None
        if partner in own:
            row["partner"] = normalise(partner)
        if structure.startswith("lung_"):
            row["parents"] = [f"{side}_lung"]
        rows.append(row)
    return rows


def left_out(structures: Iterable[str]) -> dict[str, str]:
    """Case -> why it cannot be used for these structures."""
    reported = {
        case: f"users report that {wrong} is wrong"
        for case, wrong in WRONG_LABELS.items()
        if any(structure.startswith(wrong) for structure in structures)
    }
    return {**DAMAGED_V1, **reported}


def write_group(group: str, root: Path, folder: Path) -> tuple[Path, Path]:
    """Write the class table and the source table of a group; returns their paths.

    Args:
        root: the folder of TotalSegmentator v1 with s0000/ct.nii.gz and s0000/segmentations/.

    Raises:
        UserError: the tables are there already, or `root` is another folder.
    """
    if not any(root.glob(f"s[0-9][0-9][0-9][0-9]/{IMAGE}")):
        found = f"has no s0000/{IMAGE}, s0001/{IMAGE}, ..."
        raise UserError(root, found, "the folder of TotalSegmentator v1", "check the path")
    name = f"totalsegmentator_{group}"
    files = folder / f"{name}_classes.yaml", folder / f"{name}.yaml"
    there = next((path for path in files if path.exists()), None)
    if there:
        raise UserError(there, "is there already", "a folder without it", "remove it, or give another -o")
    masks = {normalise(each): f"{{case}}/{MASKS}/{each}.nii.gz" for each in GROUPS[group]}
    source = {"name": name, "root": str(root.resolve()), "images": f"{{case}}/{IMAGE}", "masks": masks}
    source["left_out"] = left_out(GROUPS[group])
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in zip(files, ({"classes": class_rows(GROUPS[group])}, source), strict=True):
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return files
