"""Tables of text and numbers, written as Markdown or LaTeX (as HTML: report/assets/tables.html.j2)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

MISSING = "-"


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        rows: one text per column.
        has_total: the last row sums the others up.
        note: what a reader must know, printed below.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    has_total: bool = False

    def markdown(self) -> str:
        widths = [max(3, *map(len, texts)) for texts in zip(self.columns, *self.rows, strict=True)]
        rulers = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]  # names left, numbers right
        lines = "\n".join(_markdown_line(row, widths) for row in (self.columns, rulers, *self.rows))
        return "\n\n".join(filter(None, (f"### {self.title}", lines, self.note))) + "\n"

    def latex(self) -> str:
        """A table environment for the package booktabs."""
        line = lambda texts: " & ".join(map(_latex, texts)) + r" \\"  # noqa: E731
        lines = (
            r"\begin{table}",
            rf"\caption{{{_latex(f'{self.title}. {self.note}' if self.note else self.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            *(r"\toprule", line(self.columns), r"\midrule", *map(line, self.rows), r"\bottomrule"),
            *(r"\end{tabular}", r"\end{table}", ""),
        )
        return "\n".join(lines)


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _markdown_line(texts: Iterable[str], widths: list[int]) -> str:
    first, *rest = (text.replace("|", "\\|") for text in texts)
    cells = (text.rjust(width) for text, width in zip(rest, widths[1:], strict=True))
    return "| " + " | ".join([first.ljust(widths[0]), *cells]) + " |"


def _latex(text: str) -> str:
    for plain, escaped in (("\\", r"\textbackslash "), ("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("#", r"\#")):
        text = text.replace(plain, escaped)
    return text.replace("±", r"$\pm$")
