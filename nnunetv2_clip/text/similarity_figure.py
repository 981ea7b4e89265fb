"""Similarity matrices of text tables side by side, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path

from nnunetv2_clip.files import replacing
from nnunetv2_clip.text.similarity import cosines
from nnunetv2_clip.text.table import TextTable

INCHES_PER_CLASS = 0.2
MARGIN_INCHES = 3.0  # class names and colour bar


def save_similarity_figure(tables: dict[str, TextTable], path: Path) -> tuple[Path, Path]:
    """Write `path` (PNG) and the same with the ending .svg; one panel per table, each with its own colour scale.

    Returns:
        The two files.
    """
    from matplotlib.figure import Figure

    side = max(INCHES_PER_CLASS * max(len(table.class_names) for table in tables.values()), 2.0) + MARGIN_INCHES
    figure = Figure(figsize=(side * len(tables), side), layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False)[0]
    for axis, (label, table) in zip(axes, tables.items(), strict=True):
        _draw_panel(figure, axis, label, table)
    files = path, path.with_suffix(".svg")
    for file in files:
        with replacing(file) as beside:
            figure.savefig(beside, dpi=150, bbox_inches="tight", format=file.suffix[1:])
    return files


def _draw_panel(figure, axis, label: str, table: TextTable) -> None:
    similarity = cosines(table)
    image = axis.imshow(similarity, cmap="viridis", vmin=similarity.min(), vmax=1)
    names = [name.replace("_", " ") for name in table.class_names]
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_title(f"{label}\n{table.encoder}, width {table.width}, {table.sha256[:12]}", fontsize=10)
    figure.colorbar(image, ax=axis, shrink=0.7, label="cosine similarity")
