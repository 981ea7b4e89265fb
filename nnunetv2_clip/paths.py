"""Where nnU-Net keeps a dataset: its three variables and the folders below them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nnunetv2_clip.errors import UserError


def nnunet_folder(variable: str) -> Path:
    """The folder that nnUNet_raw, nnUNet_preprocessed or nnUNet_results points to.

    Raises:
        UserError: the variable is not set, or begins with ~.
    """
    value = os.environ.get(variable)
    if not value:
        remedy = f"export {variable}=/path/to/{variable}"
        raise UserError(variable, "the environment variable is not set", "nnU-Net's folder", remedy)
    if value.startswith("~"):
        remedy = f'export {variable}="$HOME{value[1:]}"'
        raise UserError(variable, f"is {value!r}, in which nnU-Net takes ~ for a name", "a whole path", remedy)
    return Path(value)


def dataset_name(dataset: str | int, *variables: str) -> str:
    """The folder name DatasetXXX_Name of a dataset id or name, looked up below `variables`.

    Raises:
        UserError: no such dataset, or several with this id.
    """
    variables = variables or ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    text = str(dataset)
    if text.startswith("Dataset"):
        return text
    if not text.isdigit():
        raise UserError("-d", f"{text!r}", "a dataset id such as 900 or a name such as Dataset900_Universal")
    folders = [Path(os.environ[variable]) for variable in variables if os.environ.get(variable)]
    if not folders:
        nnunet_folder(variables[0])
    found = sorted({path.name for folder in folders for path in folder.glob(f"Dataset{int(text):03d}_*")})
    if not found:
        raise UserError(
            f"-d {text}",
            f"no folder Dataset{int(text):03d}_* below {', '.join(map(str, folders))}",
            "a converted dataset",
            "run 'nnunetv2_clip convert' first, or check the id and nnU-Net's variables",
        )
    if len(found) > 1:
        raise UserError(f"-d {text}", f"several datasets have this id: {found}", "one", "give the full name")
    return found[0]


def new_dataset_name(option: str, dataset: str, name: str) -> str:
    """The folder name of a new dataset: `dataset` itself, or of an id the name made with `name`.

    Raises:
        UserError: neither an id that nnU-Net can read (three digits) nor a full name, or characters that nnU-Net's
            folders do not have.
    """
    is_number = re.fullmatch(r"0*[1-9][0-9]{0,2}", dataset)
    full = f"Dataset{int(dataset):03d}_{name}" if is_number else dataset
    if not re.fullmatch(r"Dataset[0-9]{3}_[A-Za-z0-9_-]+", full):
        found = f"{dataset!r} with --name {name!r}" if is_number else repr(dataset)
        raise UserError(option, found, "a dataset id such as 910, or a name such as Dataset910_Completed")
    return full


def dataset_folder(variable: str, dataset: str | int) -> Path:
    """The existing folder of a dataset below one of nnU-Net's variables.

    Raises:
        UserError: it does not exist.
    """
    folder = nnunet_folder(variable) / dataset_name(dataset, variable)
    if not folder.is_dir():
        raise UserError(folder, "does not exist", "a converted dataset", "check the name and nnU-Net's variables")
    return folder
