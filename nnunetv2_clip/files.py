"""Files that are whole or not there: written next to their place, flushed to the disk, then renamed."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from nnunetv2_clip.errors import UserError, printable

ENDING = ".part"  # of a file that is being written; hidden, and no ending that nnU-Net looks for
MAX_NAME = 120  # characters of the file's own name in that of the unfinished file: file systems end at 255
SECONDS_UNTIL_STALE = 24 * 3600


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A name next to `path` to write to; when the block ends well, the file takes the place of `path`.

    Nobody ever sees half a file, not even after a power failure: content and name are on the disk when the block is
    left. The name is unique across processes and hosts that share the folder. It is removed on any exception.
    A symbolic link may be made instead of a file.

    Args:
        path: the folders above it are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _unfinished(path)
    try:
        yield beside
        _flush(beside)
        os.replace(beside, path)
        _flush(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path | str) -> Iterator[Path]:
    """As `replacing`, for a new folder with all it holds. `path` must not exist, or is an empty folder.

    What killed processes have begun of it is removed: it may be large.
    """
    path = Path(path)
    remove_leftovers(path.parent, name=path.name)
    beside = _unfinished(path)
    beside.mkdir(parents=True)
    try:
        yield beside
        os.replace(beside, path)
        _flush(path.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


@contextmanager
def locked(path: Path, where: object, remedy: str, part: int | None = None) -> Iterator[None]:
    """Hold the lock that is this file; the system releases it when the block or the process ends, however that ends.

    Args:
        where: what the lock protects, for messages.
        part: holds this part of the lock only; None: all of it.

    Raises:
        UserError: another process holds it; says which.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            if fcntl:  # byte `part` of the file, or every byte
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 0 if part is None else 1, part or 0)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            found = f"is being written by {file.read() or 'another process'}"
            raise UserError(where, found, "one job at a time", remedy) from None
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def move(path: Path, destination: Path) -> None:
    """Rename a file or link where it is there."""
    if path.exists() or path.is_symlink():
        try:
            os.replace(path, destination)
        except OSError as error:
            if error.errno != errno.EXDEV:  # the two folders lie on different disks
                raise
            with replacing(destination) as beside:
                shutil.copy2(path, beside, follow_symlinks=False)
            path.unlink()


def remove_leftovers(*folders: Path, name: str = "") -> None:
    """Remove what killed processes were writing directly in these folders; files of living ones stay.

    Args:
        name: of the files that they were writing; empty: all.
    """
    pattern = f".{glob.escape(name[:MAX_NAME])}.*{ENDING}" if name else f".*{ENDING}"
    for path in (path for folder in folders if folder.is_dir() for path in folder.glob(pattern)):
        with suppress(OSError):  # somebody else may remove it at the same time
            if _is_left_over(path):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def walk_once(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """os.walk over all real folders, each once, links to folders included: a link may lead back to where it lies.

    Yields:
        folder; names of its folders, to be shortened in place if some are not wanted; names of its files, sorted.

    Raises:
        UserError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(error.filename, f"cannot be listed ({error.strerror})", "a folder", "correct its rights")

    seen: set[str] = set()
    for parent, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(parent)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))  # noqa: B023
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield Path(parent), folders, sorted(names)


def is_utf8(name: str) -> bool:
    """Can a name be written to a text file; names in another encoding cannot."""
    return name == printable(name)


def require_utf8(path: Path) -> None:
    """Raises UserError: the name of a file cannot be written down."""
    if not is_utf8(str(path)):
        raise UserError(printable(str(path)), "has a name that is not UTF-8", "a name in UTF-8", "rename it")


def leaves_its_folder(name: str) -> bool:
    """Would a zip entry of this name be written outside the folder into which it is unpacked?"""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return name.startswith(("/", "\\")) or ".." in parts or ":" in name


def few(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def write_text(path: Path | str, text: str) -> None:
    """A text file in UTF-8, whole or not there; what killed processes have begun of it is removed."""
    remove_leftovers(Path(path).parent, name=Path(path).name)
    _write(path, text)


def _write(path: Path | str, text: str) -> None:
    # Names of files need not be UTF-8; what stands for their bytes in Python cannot be encoded.
    with replacing(path) as beside, open(beside, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(text)


def write_csv(path: Path | str, rows: Iterable[Iterable[object]]) -> None:
    """A table in UTF-8 with commas, whole or not there."""
    with replacing(path) as beside, open(beside, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_json(path: Path | str, content: object) -> None:
    """A JSON file, whole or not there."""
    _write(path, json.dumps(content, indent=2, sort_keys=False) + "\n")


def read_json(path: Path | str, remedy: str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: not there or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "a JSON file", remedy) from None
    except (ValueError, RecursionError) as error:
        raise UserError(path, f"is not JSON ({error})", "a JSON file", remedy) from None


def read_record(path: Path | str) -> dict | None:
    """The table in a JSON file of ours; None where it is missing, empty or broken: what it records is not done."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def changed_keys(before: object, now: dict, keys: Iterable[str] | None = None) -> list[str]:
    """The keys under which a file that was read (`before`) does not say what would be written there `now`.

    Args:
        keys: to look at (default: all of `now`). What is not a table differs in all of them.
    """
    now = json.loads(json.dumps(now))  # lists for tuples, as they come out of a file
    found = before if isinstance(before, dict) else {}
    return [key for key in (now if keys is None else keys) if found.get(key) != now.get(key)]


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name[:MAX_NAME]}.{_owner()}-{os.getpid()}-{uuid.uuid4().hex[:12]}{ENDING}")


def _owner() -> str:
    """Eight hexadecimal digits of the host since its start and, in containers, of their own numbering of processes."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino, Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:  # no Linux
        namespace = 0
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _is_left_over(path: Path) -> bool:
    owner, _, rest = path.name.removesuffix(ENDING).rpartition(".")[2].partition("-")
    number = rest.partition("-")[0]
    if owner == _owner() and number.isdigit():
        return not psutil.pid_exists(int(number))
    return time.time() - path.lstat().st_mtime > SECONDS_UNTIL_STALE


def _flush(path: Path) -> None:
    """Make sure that a file, or the names in a folder, are on the disk."""
    if path.is_symlink():
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder on Windows
        return
    try:
        with suppress(OSError):  # file systems that cannot flush a folder
            os.fsync(handle)
    finally:
        os.close(handle)
