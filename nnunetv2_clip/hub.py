"""Models on the Hugging Face hub: `hf:ORG/NAME` or `hf:ORG/NAME@REVISION` (a branch, tag or commit) in place of a path.

Downloads lie in the cache of huggingface_hub, which goes on when a connection breaks; afterwards no internet is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_clip import __version__
from nnunetv2_clip.errors import UserError

PREFIX = "hf:"
NAME = r"[\w.-]+/[\w.-]+"  # of a repository: ORG/NAME
# All that prediction and `info` read; other files of a repository stay where they are. `*` stands for folders as well.
MODEL_FILES = (
    *("*plans.json", "*dataset.json", "*fold_*/checkpoint_*.pth"),
    *("*fold_*/validation/summary.json", "*fold_*/training_curves.json"),
)
LOGIN = "hf auth login, or set HF_TOKEN"


def is_on_hub(where: Path | str) -> bool:
    return str(where).startswith(PREFIX)


def download(where: Path | str) -> Path:
    """The folder with the model files of a repository, downloaded if they are not in the cache.

    Args:
        where: hf:ORG/NAME or hf:ORG/NAME@REVISION.

    Raises:
        UserError: no such name, repository or revision, no access, no internet, or a download that broke off.
    """
    from huggingface_hub import snapshot_download

    where = Path(where).as_posix()
    parts = re.fullmatch(f"{PREFIX}({NAME})(?:@(\\S+))?", where)
    if parts is None:
        raise UserError(where, "is no name of a repository", f"{PREFIX}ORG/NAME or {PREFIX}ORG/NAME@REVISION")
    ours = {"library_name": "nnunetv2_clip", "library_version": __version__}
    with hub_errors(where):
        return Path(snapshot_download(parts[1], revision=parts[2], allow_patterns=list(MODEL_FILES), **ours))


def require_name(option: str, name: str) -> None:
    """Raises UserError: no ORG/NAME."""
    if not re.fullmatch(NAME, name):
        raise UserError(option, f"{name!r} is no name of a repository", "ORG/NAME")


@contextmanager
def hub_errors(where: str) -> Iterator[None]:
    """What huggingface_hub raises inside, as UserError about `where`."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError:
        remedy = f"accept its conditions on its page, then {LOGIN}"
        raise UserError(where, "is open only to those who accept its conditions", "access", remedy) from None
    except errors.RepositoryNotFoundError:
        found, remedy = "does not exist on the hub, or is private", f"check the name; for a private one: {LOGIN}"
        raise UserError(where, found, "a repository that you may read", remedy) from None
    except errors.RevisionNotFoundError:
        remedy = "look at the repository's page, or leave @REVISION out"
        raise UserError(where, "has no such revision", "a branch, tag or commit", remedy) from None
    except errors.HFValidationError as error:
        raise UserError(where, f"is no name of a repository ({error})", f"{PREFIX}ORG/NAME") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HTTPError) as error:
        answer = _with_answer(error)
        raise _refused(where, answer) if answer else _not_connected(where, error) from None
    except UserError:
        raise
    except (ValueError, TypeError, LookupError, AssertionError) as error:  # no JSON, or none of the hub's; evil names
        found = f"the answer of {constants.ENDPOINT} cannot be used ({_first_line(error) or type(error).__name__})"
        remedy = "check HF_ENDPOINT, and whether a proxy asks you to sign in; else ask the owner of the repository"
        raise UserError(where, found, "what the Hugging Face hub or a mirror of it answers", remedy) from None


def _with_answer(error: BaseException | None) -> Exception | None:
    """The error itself or the one behind it, if it holds an answer of the hub: huggingface_hub says of most of them
    that there may be no connection."""
    while error is not None and getattr(error, "response", None) is None:
        error = error.__cause__
    return error if isinstance(error, Exception) else None


def _refused(where: str, error: Exception) -> UserError:
    said, status = _first_line(error), error.response.status_code  # pyright: ignore[reportAttributeAccessIssue]
    if status in (401, 403):
        expected, remedy = "a token with the right to do this", f"make one on the hub, then {LOGIN}"
        return UserError(where, f"the hub refuses the token ({said})", expected, remedy)
    return UserError(where, f"the hub answers with an error ({said})", "", "try again later")


def _not_connected(where: str, error: Exception) -> UserError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        found, remedy = "HF_HUB_OFFLINE forbids to ask the hub, and it is not in the cache", "unset it once"
    else:
        found = f"the connection to {constants.ENDPOINT} failed ({_first_line(error)})"
        remedy = "run the same command again: files that are whole are kept"
    expected = f"internet, or for a download the whole model in the cache ({constants.HF_HUB_CACHE})"
    return UserError(where, found, expected, f"{remedy}; or give -m a folder or a zip that was copied from elsewhere")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
