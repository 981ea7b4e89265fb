"""How near classes are to each other in a text table: what a user looks at before she trusts it."""

# Shapes: K classes.

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.files import replacing
from nnunetv2_clip.text.table import TextTable

INDISTINGUISHABLE = 0.999  # cosine from which the controller can hardly tell two classes apart
MOST_WARNINGS = 5  # of pairs that are indistinguishable; the rest is counted
ROUNDING = 1e-6  # of float32 vectors: cosines nearer than this are equal
FEWEST_FOR_CHANCE = 5  # below this number of classes nothing can be said about chance
INCHES_PER_CLASS = 0.2  # of the figure
MARGIN_INCHES = 3.0  # class names and colour bar


def cosines(table: TextTable) -> np.ndarray:
    """(K, K) float64 cosine similarity."""
    vectors = table.vectors.astype(np.float64)
    return vectors @ vectors.T


def pairs_by_similarity(table: TextTable) -> list[tuple[str, str, float]]:
    """Every pair of classes once with its cosine, the nearest first."""
    first, second = np.triu_indices(len(table.class_names), k=1)
    values = cosines(table)[first, second]
    names = table.class_names
    return [(names[first[i]], names[second[i]], float(values[i])) for i in np.argsort(-values, kind="stable")]


def looks_random(table: TextTable) -> bool:
    """No class is nearer to another than chance makes it: a random or one-hot table, or a wrong file.

    Directions drawn at random have centred cosines that scatter by 1 / sqrt(E) around one value; text scatters by
    several times that, because organs and their tumours, or left and right, lie together.
    """
    if len(table.class_names) < FEWEST_FOR_CHANCE:
        return False
    centred = table.vectors.astype(np.float64) - table.vectors.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    if not lengths.all():
        return False  # all vectors equal: indistinguishable, another warning
    unit = centred / lengths
    scatter = (unit @ unit.T)[np.triu_indices(len(unit), k=1)].std()
    return bool(scatter < 2 / np.sqrt(table.width))


def warnings_of(table: TextTable) -> list[str]:
    """What is wrong with a table, in words; empty if nothing is."""
    alike = [(a, b, value) for a, b, value in pairs_by_similarity(table) if value > INDISTINGUISHABLE]
    found = [
        f"{a} and {b} are indistinguishable (cosine {value:.4f}); give them other prompt nouns or another encoder"
        for a, b, value in alike[:MOST_WARNINGS]
    ]
    if len(alike) > MOST_WARNINGS:
        found.append(f"{len(alike) - MOST_WARNINGS} more pairs are indistinguishable (sentences cut before the class?)")
    if looks_random(table):
        found.append("the table looks random: no class is nearer to another than chance (random or one-hot vectors?)")
    return found


@dataclass(frozen=True)
class TextRelation:
    """Two classes that anatomy puts together, and where the text puts them.

    Attributes:
        kind: "part" (an organ and what lies in it) or "side" (left and right).
        anchor, relative: the rank is that of `relative` among the neighbours of `anchor`.
        rank: 1 is the nearest neighbour, K - 1 the farthest; equal cosines share their mean rank.
        cosine: their similarity.
    """

    kind: str
    anchor: str
    relative: str
    rank: float
    cosine: float


def relations(table: TextTable, taxonomy: Taxonomy) -> Iterator[TextRelation]:
    """Every organ with its parts and every left-right pair of which the table has both classes."""
    position = {name: k for k, name in enumerate(table.class_names)}
    similarity = cosines(table)
    for row in taxonomy:
        expected = [("part", parent, row.name) for parent in row.parents]
        if row.partner:
            expected.append(("side", row.name, row.partner))
        for kind, anchor, relative in expected:
            if anchor in position and relative in position:
                a, r = position[anchor], position[relative]
                others = np.delete(similarity[a], [a, r])
                nearer = (others > similarity[a, r] + ROUNDING).sum()
                equal = (np.abs(others - similarity[a, r]) <= ROUNDING).sum()
                rank = 1 + float(nearer) + float(equal) / 2
                yield TextRelation(kind, anchor, relative, rank, float(similarity[a, r]))


def rank_report(tables: dict[str, TextTable], taxonomy: Taxonomy) -> str:
    """As text: the rank (and cosine) of each relation in each table, then the mean ranks and what chance gives."""
    by_table = {label: list(relations(table, taxonomy)) for label, table in tables.items()}
    found = {label: {(r.kind, r.anchor, r.relative): r for r in rows} for label, rows in by_table.items()}
    keys = list(dict.fromkeys(key for rows in found.values() for key in rows))
    lines = [["rank (cosine) of", "among the neighbours of", *tables]]
    for title, kind in (("organ and part", "part"), ("left and right", "side")):
        of_kind = [key for key in keys if key[0] == kind]
        for key in of_kind:
            cells = [found[label].get(key) for label in tables]
            lines.append([key[2], key[1], *(f"{c.rank:g} ({c.cosine:.2f})" if c else "-" for c in cells)])
        if of_kind:
            means = [[found[label][key].rank for key in of_kind if key in found[label]] for label in tables]
            lines.append([f"mean rank, {title}", "", *(f"{np.mean(each):.1f}" if each else "-" for each in means)])
    lines.append(["mean rank by chance", "", *(f"{len(table.class_names) / 2:.1f}" for table in tables.values())])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def save_similarity_figure(tables: dict[str, TextTable], path: Path) -> None:
    """The similarity matrices side by side, each with its own colour scale: `path` (PNG) and the same as .svg."""
    from matplotlib.figure import Figure

    side = max(INCHES_PER_CLASS * max(len(table.class_names) for table in tables.values()), 2.0) + MARGIN_INCHES
    figure = Figure(figsize=(side * len(tables), side), layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False)[0]
    for axis, (label, table) in zip(axes, tables.items(), strict=True):
        similarity = cosines(table)
        image = axis.imshow(similarity, cmap="viridis", vmin=similarity.min(), vmax=1)
        names = [name.replace("_", " ") for name in table.class_names]
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_title(f"{label}\n{table.encoder}, width {table.width}, {table.sha256[:12]}", fontsize=10)
        figure.colorbar(image, ax=axis, shrink=0.7, label="cosine similarity")
    for file in (path, path.with_suffix(".svg")):
        with replacing(file) as beside:
            figure.savefig(beside, dpi=150, bbox_inches="tight", format=file.suffix[1:])
