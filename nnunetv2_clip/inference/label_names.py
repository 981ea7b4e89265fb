"""Names and colours of label values, where the programs of radiology look for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from nibabel.nifti1 import Nifti1Extension

from nnunetv2_clip.classes import ClassRow
from nnunetv2_clip.files import write_text
from nnunetv2_clip.imaging.pictures import color_of

EXTENSION_CODE = 0  # of no registered kind; TotalSegmentator writes the names under it
SLICER_TABLE, ITKSNAP_TABLE = "labels.ctbl", "labels_itksnap.txt"


def nifti_extension(rows: Iterable[ClassRow]) -> Nifti1Extension:
    """For the header of a label map: a Caret label table (XML) in the form that TotalSegmentator writes."""
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    for row in sorted(rows, key=lambda row: row.index):
        red, green, blue = (f"{part / 255:.6g}" for part in color_of(row))
        entry = {"Key": str(row.index), "Red": red, "Green": green, "Blue": blue, "Alpha": "1"}
        ElementTree.SubElement(table, "Label", entry).text = row.name
    ElementTree.SubElement(volume, "StudyMetaDataLinkSet")
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    content = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    return Nifti1Extension(EXTENSION_CODE, content)


def write_label_tables(folder: Path, rows: Iterable[ClassRow]) -> None:
    """A colour table for 3D Slicer, and label descriptions for ITK-SNAP."""
    colors = {row.index: (row.name, *color_of(row)) for row in sorted(rows, key=lambda row: row.index)}
    slicer = ["# Color table file", f"# {len(colors) + 1} values", "0 background 0 0 0 0"]
    slicer += [f"{index} {name} {red} {green} {blue} 255" for index, (name, red, green, blue) in colors.items()]
    write_text(folder / SLICER_TABLE, "\n".join(slicer) + "\n")
    snap = ["# ITK-SnAP Label Description File", "# IDX R G B A VIS MSH LABEL", '0 0 0 0 0 0 0 "Clear Label"']
    snap += [f'{index} {red} {green} {blue} 1 1 1 "{name}"' for index, (name, red, green, blue) in colors.items()]
    write_text(folder / ITKSNAP_TABLE, "\n".join(snap) + "\n")
