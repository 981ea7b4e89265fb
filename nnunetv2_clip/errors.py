"""What the software says to its users when something does not fit."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A problem that the user can fix; the command line prints it without traceback and exits with `exit_code`.

    Args:
        where: the file, case or option that is wrong.
        found: what was found there.
        expected: what was expected instead.
        remedy: what to do about it.
    """

    exit_code = 2
    max_characters = 4000  # of each part: a table or a label map may hold millions of wrong things

    def __init__(self, where: object, found: str, expected: str = "", remedy: str = ""):
        parts = (str(where), found, expected, remedy)
        self.where, self.found, self.expected, self.remedy = (_bounded(part, self.max_characters) for part in parts)
        said = [f"{self.where}: {self.found}"]
        if expected:
            said.append(f"Expected: {self.expected}")
        if remedy:
            said.append(f"Remedy: {self.remedy}")
        ended = (part if part.endswith((".", "?", "!", "\n")) else part + "." for part in said)
        super().__init__(printable("".join(part if part.endswith("\n") else part + " " for part in ended).rstrip()))

    def __reduce__(self):  # exceptions cross process borders by their arguments
        return type(self), (self.where, self.found, self.expected, self.remedy)


def _bounded(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def printable(text: str) -> str:
    """The text; bytes of file names that are not UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def suggestion(name: str, options: Iterable[str]) -> str:
    """The text " Did you mean 'liver'?" for the nearest of `options`, or an empty string."""
    close = difflib.get_close_matches(name.lower(), list(options), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a UserError into a message on stderr and its exit code (for code that a foreign command line runs)."""
    try:
        yield
    except UserError as error:
        print(f"\nError: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
