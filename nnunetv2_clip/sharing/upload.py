"""Files of a model to the Hugging Face hub: first a plan that says what would happen, then one commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip import __version__
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.hub import LOGIN, PREFIX, hub_errors
from nnunetv2_clip.sharing.package import CARD


@dataclass(frozen=True)
class Upload:
    """What would be uploaded.

    Attributes:
        repository: ORG/NAME.
        exists: it is there already, and keeps its visibility.
        files: path in the repository -> file.
        removed: files of this model in the repository that it has no more, such as folds of another training.
    """

    repository: str
    exists: bool
    private: bool
    files: Mapping[str, Path]
    removed: tuple[str, ...]

    def text(self) -> str:
        """The plan, for a terminal."""
        seen = "private" if self.private else "public: everybody can download it"
        lines = [f"{PREFIX}{self.repository} ({seen}), {'there already' if self.exists else 'new'}"]
        lines += [f"  {_megabytes(file.stat().st_size):>10}  {name}" for name, file in self.files.items()]
        lines += [f"  {'removed':>10}  {name}" for name in self.removed]
        return "\n".join(
            [*lines, f"  {_megabytes(sum(file.stat().st_size for file in self.files.values())):>10}  in all"]
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def plan_upload(repository: str, files: Mapping[str, Path], model_folder: str, private: bool) -> Upload:
    """Ask the hub what is there, and whether it takes the card; nothing is changed.

    Args:
        model_folder: in the repository; files in it that are not among `files` are to be removed.

    Raises:
        UserError: no token, one that may not write, a card that the hub does not take, or no connection.
    """
    api, where = _api(), f"{PREFIX}{repository}"
    with hub_errors(where):
        if api.whoami()["auth"].get("accessToken", {}).get("role") == "read":
            found, remedy = "the token may read only", f"make one that may write on the hub, then {LOGIN}"
            raise UserError("--push", found, "a token with the right to write", remedy)
        _require_valid(files[CARD])
        if not api.repo_exists(repository):
            return Upload(repository, False, private, files, ())
        there = api.list_repo_files(repository)
        visible = bool(api.repo_info(repository).private)
    old = tuple(name for name in there if name.startswith(f"{model_folder}/") and name not in files)
    return Upload(repository, True, visible, files, old)


def _require_valid(card: Path) -> None:
    from huggingface_hub import ModelCard

    try:
        ModelCard.load(card).validate()
    except ValueError as error:
        found = f"the hub does not take the model card ({str(error).strip()})"
        raise UserError("--push", found, "a licence as the hub names it, as cc-by-4.0", "check --licence") from None


def upload(plan: Upload, message: str) -> str:
    """Make the repository if need be, then all changes in one commit; returns the commit's address.

    Raises:
        UserError: the hub refuses, or no connection; the repository is as it was, or empty.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = _api()
    operations = [CommitOperationAdd(name, file) for name, file in plan.files.items()]
    operations += [CommitOperationDelete(name) for name in plan.removed]
    with hub_errors(f"{PREFIX}{plan.repository}"):
        if not plan.exists:
            api.create_repo(plan.repository, private=plan.private)
        return api.create_commit(plan.repository, operations, commit_message=message).commit_url


def _api():
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise UserError("--push", "there is no token of the hub", "a token with the right to write", LOGIN)
    return HfApi(library_name="nnunetv2_clip", library_version=__version__)
