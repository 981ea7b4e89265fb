"""Cases whose scan or patient also stood in the model's training: their scores say nothing about new patients."""

from collections.abc import Container
from pathlib import Path

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.manifest import CasePresence, Manifest

# Checksums that tell a scan; an equal label file tells nothing (two empty ones are equal).
SCAN_ROLES = {"image": "same image file", "voxels": "same voxels"}


def leaked_cases(evaluated: Manifest, training: Manifest) -> dict[str, str]:
    """Case of `evaluated` -> why its scan counts as seen in training.

    A scan counts as seen when its group, its patient, the fingerprint of its voxels or the checksum of its image file
    occurs in the training manifest, also among the copies that a training case has taken over. A group that is no more
    than the case's own name (the default of a manifest written by hand) says nothing: two hospitals may both have a
    case_001.
    """
    seen = {identity: case_id for case_id, case in training.cases.items() for identity in _identities(case_id, case)}
    found = {}
    for case_id, case in evaluated.cases.items():
        for identity, meaning in _identities(case_id, case).items():
            if identity in seen:
                found[case_id] = f"{meaning} as training case {seen[identity]}"
                break
    return found


def find_leaks(manifest: Manifest | None, training: Path | None, predicted: Container[str]) -> dict[str, str]:
    """The leaked cases that have a prediction, for a command's --train-manifest; none without one.

    Raises:
        UserError: the references have no manifest.
    """
    if training is None:
        return {}
    if manifest is None:
        raise UserError(
            "--train-manifest", "the references have no manifest", "a manifest on both sides", "name it with --manifest"
        )
    found = leaked_cases(manifest, Manifest.load(training))
    return {case_id: reason for case_id, reason in found.items() if case_id in predicted}


def _identities(case_id: str, case: CasePresence) -> dict[str, str]:
    """What tells the scan of a case -> the same in words."""
    found = {case.group: "same scan group"} if case.group not in ("", case_id) else {}
    if case.patient:
        found[f"{case.dataset}: {case.patient}"] = "same patient"
    for role, text in case.checksums.items():
        meaning = SCAN_ROLES.get(role.rsplit("/", 1)[-1])  # role, or copy/role
        if meaning and text:
            found.setdefault(text, meaning)
    return found
