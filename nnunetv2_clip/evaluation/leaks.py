"""Cases whose scan also stood in the model's training: their scores say nothing about new patients."""

from __future__ import annotations

from nnunetv2_clip.manifest import CasePresence, Manifest


def leaked_cases(evaluated: Manifest, training: Manifest) -> dict[str, str]:
    """Case of `evaluated` -> why its scan counts as seen in training.

    A scan counts as seen when its group (which converters set from a fingerprint of the voxels) or the checksum of
    its image file occurs in the training manifest.
    """
    by_group = {case.group: case_id for case_id, case in training.cases.items()}
    by_checksum = {_image_checksum(case): case_id for case_id, case in training.cases.items()}
    by_checksum.pop("", None)
    found = {}
    for case_id, case in evaluated.cases.items():
        if case.group in by_group:
            found[case_id] = f"same scan group as training case {by_group[case.group]}"
        elif _image_checksum(case) in by_checksum:
            found[case_id] = f"same image file as training case {by_checksum[_image_checksum(case)]}"
    return found


def _image_checksum(case: CasePresence) -> str:
    return case.checksums.get("image", "")
