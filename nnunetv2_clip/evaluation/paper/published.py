"""Figures that the paper prints, to stand beside ours. Published, not measured again.

Source of every number: Liu et al., "CLIP-Driven Universal Model for Organ Segmentation and Tumor Detection",
ICCV 2023; tables and columns in the paper's order, in percent. Numbers stand as printed, also where they do not fit
together: the column Avg. of Table 3 is the mean over 13 organs (the adrenal glands count twice) for the first five
methods; by the same rule Swin UNETR would have 82.23 and the Universal Model 85.33. Figures 3, 4 and 7 print no
numbers per class that could be quoted.
"""

from dataclasses import dataclass

SOURCE = "Liu et al., ICCV 2023"
NOT_REMEASURED = "Rows marked * are published figures, not measured again"


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper.

    Attributes:
        title: what it shows and where it is printed.
        dataset: how the names of its source datasets begin.
        columns: heading -> the classes whose mean Dice makes up the column.
        averages: heading -> the classes whose mean makes up a last column.
        rows: method -> the printed percentages, None for N/A, in the order of `columns` and `averages`.
    """

    title: str
    dataset: str
    columns: dict[str, tuple[str, ...]]
    averages: dict[str, tuple[str, ...]]
    rows: dict[str, tuple[float | None, ...]]

    @property
    def is_figure(self) -> bool:
        """Nothing is printed in numbers: ours are drawn as well."""
        return not self.rows


def _flat(columns: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(name for names in columns.values() for name in names)


def _each(*names: str, **others: str) -> dict[str, tuple[str, ...]]:
    """A column for every class: under its own name in words, or under another heading."""
    headings = {name.replace("_", " "): name for name in names} | others
    return {heading: (name,) for heading, name in headings.items()}


_BTCV_COLUMNS = {
    **_each(Spl="spleen", RKid="right_kidney", LKid="left_kidney", Gall="gallbladder", Eso="esophagus", Liv="liver"),
    **_each(Sto="stomach", Aor="aorta", IVC="postcava", Veins="portal_and_splenic_vein", Pan="pancreas"),
    "AG": ("right_adrenal_gland", "left_adrenal_gland"),
}
TABLE_3 = PublishedTable(
    title="BTCV, five-fold cross-validation, Dice in percent (paper, Table 3)",
    dataset="btcv",
    columns=_BTCV_COLUMNS,
    averages={"Avg.": _flat(_BTCV_COLUMNS)},  # 13 organs
    rows={
        "RandPatch": (95.82, 88.52, 90.14, 68.31, 75.01, 96.48, 82.93, 88.96, 82.49, 73.54, 75.48, 66.09, 80.76),
        "TransBTS": (94.59, 89.23, 90.47, 68.50, 75.59, 96.14, 83.72, 88.85, 82.28, 74.25, 75.12, 66.74, 80.94),
        "nnFormer": (94.51, 88.49, 93.39, 65.51, 74.49, 96.10, 83.83, 88.91, 80.58, 75.94, 77.71, 68.19, 81.22),
        "UNETR": (94.91, 92.10, 93.12, 76.98, 74.01, 96.17, 79.98, 89.74, 81.20, 75.05, 80.12, 62.60, 81.43),
        "nnU-Net": (95.92, 88.28, 92.62, 66.58, 75.71, 96.49, 86.05, 88.33, 82.72, 78.31, 79.17, 67.99, 82.01),
        "Swin UNETR": (95.44, 93.38, 93.40, 77.12, 74.14, 96.39, 80.12, 90.02, 82.93, 75.08, 81.02, 64.98, 82.06),
        "Universal Model": (95.82, 94.28, 94.11, 79.52, 76.55, 97.05, 92.59, 91.63, 86.00, 77.54, 83.17, 70.52, 86.13),
    },
)

_ORGAN_COLUMNS = {
    **_each("spleen", kidneyR="right_kidney", kidneyL="left_kidney"),
    **_each("gallbladder", "liver", "stomach", "pancreas"),
}
_IRCADB_COLUMNS = {**_ORGAN_COLUMNS, **_each(lungR="right_lung", lungL="left_lung")}
TABLE_5_IRCADB = PublishedTable(
    title="3D-IRCADb, external data, Dice in percent (paper, Table 5, upper part)",
    dataset="ircadb",
    columns=_IRCADB_COLUMNS,
    averages={"mDSC*": _flat(_ORGAN_COLUMNS), "mDSC": _flat(_IRCADB_COLUMNS)},
    rows={
        "SegResNet": (94.08, 80.01, 91.60, 69.59, 95.62, 89.53, 79.19, None, None, 85.66, None),
        "nnFormer": (93.75, 88.20, 90.11, 62.22, 94.93, 87.93, 78.90, None, None, 85.14, None),
        "UNesT": (94.02, 84.90, 94.95, 68.58, 95.10, 89.28, 79.94, None, None, 86.68, None),
        "TransBTS": (91.33, 76.22, 88.87, 62.50, 94.42, 85.87, 63.90, None, None, 80.44, None),
        "TransUNet": (94.09, 82.07, 89.92, 63.07, 95.55, 89.12, 79.53, None, None, 84.76, None),
        "UNETR": (92.23, 91.28, 94.19, 56.20, 94.25, 86.73, 72.56, 91.56, 93.31, 83.92, 85.81),
        "Swin UNETR": (93.51, 66.34, 90.63, 61.05, 94.73, 87.37, 73.77, 93.72, 92.17, 81.05, 83.69),
        "Universal Model": (95.76, 94.99, 94.42, 88.79, 97.03, 89.36, 80.99, 97.71, 96.72, 91.62, 92.86),
    },
)

_JHH_COLUMNS = {**_ORGAN_COLUMNS, **_each("aorta", "postcava", vein="portal_and_splenic_vein")}
TABLE_5_JHH = PublishedTable(
    title="JHH (a private dataset), external data, Dice in percent (paper, Table 5, lower part)",
    dataset="jhh",
    columns=_JHH_COLUMNS,
    averages={"mDSC": _flat(_JHH_COLUMNS)},
    rows={
        "SegResNet": (93.11, 89.92, 87.84, 74.62, 95.37, 87.90, 76.33, 84.05, 79.36, 57.13, 82.56),
        "nnFormer": (86.71, 87.03, 84.28, 63.37, 91.64, 73.18, 71.88, 84.73, 78.61, 55.31, 77.67),
        "UNesT": (93.82, 90.42, 89.04, 76.40, 95.30, 89.65, 78.97, 84.36, 79.61, 59.70, 83.73),
        "TransBTS": (85.47, 81.58, 82.00, 60.58, 92.50, 72.29, 63.25, 83.47, 75.07, 55.38, 75.16),
        "TransUNet": (94.63, 89.86, 89.61, 77.28, 95.85, 88.95, 79.98, 85.06, 81.02, 59.76, 84.20),
        "UNETR": (91.89, 89.07, 87.60, 66.97, 91.48, 83.18, 70.56, 82.92, 75.20, 57.53, 79.64),
        "Swin UNETR": (92.23, 84.34, 82.95, 74.06, 94.91, 82.28, 71.17, 85.50, 79.18, 55.11, 80.17),
        "Universal Model": (93.94, 91.53, 90.21, 84.15, 96.25, 92.51, 82.72, 77.35, 79.64, 57.10, 84.54),
    },
)

# Figure 3 compares five-fold cross-validation on the six CT tasks of the Decathlon and prints no numbers; its caption
# gives differences only (and the text another one for the colon, 12 instead of 11). So there are columns and no rows.
_MSD_COLUMNS = _each(
    "liver", "liver_tumor", "lung_tumor", "pancreas", "pancreas_tumor", "hepatic_vessel", "hepatic_vessel_tumor",
    "spleen", "colon_tumor",
)  # fmt: skip
FIGURE_3 = PublishedTable(
    title="MSD CT tasks, five-fold cross-validation, Dice in percent (paper, Figure 3)",
    dataset="msd_",
    columns=_MSD_COLUMNS,
    averages={"Avg.": _flat(_MSD_COLUMNS)},
    rows={},
)

# External data that everybody can download; the paper scores it after fine-tuning only (Table 6), so no rows either.
# The universal classes that TotalSegmentator labels: lungs from their lobes, postcava from inferior_vena_cava,
# intestine from small_bowel, bladder from urinary_bladder.
_TOTALSEGMENTATOR_COLUMNS = _each(
    "spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "postcava",
    "portal_and_splenic_vein", "pancreas", "right_adrenal_gland", "left_adrenal_gland", "duodenum", "right_lung",
    "left_lung", "colon", "intestine", "bladder",
)  # fmt: skip
TOTALSEGMENTATOR = PublishedTable(
    title="TotalSegmentator, external data, Dice in percent",
    dataset="totalsegmentator",
    columns=_TOTALSEGMENTATOR_COLUMNS,
    averages={"mDSC": _flat(_TOTALSEGMENTATOR_COLUMNS)},
    rows={},
)

PUBLISHED_TABLES: dict[str, PublishedTable] = {
    "btcv": TABLE_3,
    "msd": FIGURE_3,
    "ircadb": TABLE_5_IRCADB,
    "jhh": TABLE_5_JHH,
    "totalsegmentator": TOTALSEGMENTATOR,
}

# Table 4: class -> method -> sensitivity, specificity, harmonic mean (percent).
TABLE_4: dict[str, dict[str, tuple[float, float, float]]] = {
    "liver_tumor": {
        "nnU-Net": (94.44, 75.00, 83.60),
        "UNet++": (94.44, 80.00, 86.62),
        "UNETR": (86.11, 95.00, 90.34),
        "Swin UNETR": (91.67, 85.00, 88.21),
        "Universal Model": (88.89, 95.00, 91.84),
    },
    "kidney_tumor": {
        "nnU-Net": (96.88, 85.00, 90.55),
        "UNETR": (93.75, 95.00, 94.37),
        "Swin UNETR": (97.91, 70.00, 81.63),
        "Universal Model": (91.67, 95.00, 93.31),
    },
    "pancreas_tumor": {
        "nnU-Net": (95.18, 88.75, 91.85),
        "UNETR": (90.36, 81.25, 85.56),
        "Swin UNETR": (97.59, 87.50, 92.26),
        "Universal Model": (93.98, 91.25, 92.59),
    },
}
