"""The rules of the tree: what may stand where, what may import what, and what of nnU-Net we lean on."""

from __future__ import annotations

import ast
import pydoc
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "nnunetv2_clip"
FOLDERS = {LIBRARY: LIBRARY, **{name: f"{LIBRARY}.{name}" for name in ("dataset_conversion", "trainers", "plans")}}
ABOVE_THE_LIBRARY = tuple(f"{LIBRARY}.{name}" for name in ("dataset_conversion", "trainers", "plans"))
# Modules of dataset_conversion beside the sources: the list of them, the tables that a user writes, facts.
NO_SOURCE = {"__init__", "registry", "known_copies", "custom", "totalsegmentator_groups"}


def module_files() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of all our modules; a package goes by its own name."""
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), path


FILES = dict(module_files())
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def statements(tree: ast.Module, lazy: bool) -> Iterator[ast.AST]:
    """All nodes; without `lazy` those that run when the module is imported."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def imported(tree: ast.Module, lazy: bool = False) -> set[str]:
    """Dotted names of the imported modules, and of what is imported from them."""
    names = set()
    for node in statements(tree, lazy):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def our_modules(names: set[str]) -> set[str]:
    """The modules of ours that these imports run, with the packages above them."""
    found = set()
    for name in names:
        while name:
            found |= {name} & set(FILES)
            name = name.rpartition(".")[0]
    return found


def is_command(name: str) -> bool:
    return name.startswith(f"{LIBRARY}.commands")


# ---------------------------------------------------------------- where things stand


def test_dataset_conversion_holds_sources_and_facts_alone():
    for path in (ROOT / "dataset_conversion").rglob("*.py"):
        tree = TREES[f"{LIBRARY}.dataset_conversion.{path.stem}".removesuffix(".__init__")]
        targets = [node.targets if isinstance(node, ast.Assign) else [node.target] for node in assignments(tree)]
        has_sources = "SOURCES" in {target.id for group in targets for target in group if isinstance(target, ast.Name)}
        assert has_sources or path.stem in NO_SOURCE, f"{path.name} has no SOURCES: the engine is in conversion/"


def assignments(tree: ast.Module) -> list[ast.Assign | ast.AnnAssign]:
    return [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]


def uses_of(*dotted: str) -> set[str]:
    """The modules that use one of these names of a package, however they import it."""
    found = set()
    for name, tree in TREES.items():
        attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if any(each in imported(tree, lazy=True) or each in attributes for each in dotted):
            found.add(name)
    return found


def test_files_are_put_in_place_by_files_py_alone():
    assert uses_of("os.replace", "os.rename") <= {f"{LIBRARY}.files"}


def test_worker_processes_are_started_by_runner_py_alone():
    pools = {"ProcessPoolExecutor", "Pool", "Process"}
    for name, tree in TREES.items():
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        started = pools & (attributes | {each.rpartition(".")[2] for each in imported(tree, lazy=True)})
        uses_processes = any(each.startswith(("multiprocessing", "concurrent")) for each in imported(tree, lazy=True))
        assert name == f"{LIBRARY}.runner" or not (started and uses_processes), f"{name}: {started}"


@pytest.mark.parametrize(
    "path",
    ["networks.universal.CLIPUniversalNet", "networks.swin_unetr.SwinUNETR", "networks.published_unet.PublishedUNet"],
)
def test_networks_keep_the_dotted_path_that_every_plans_json_holds(path):
    network = pydoc.locate(f"{LIBRARY}.{path}")
    assert isinstance(network, type) and f"{network.__module__}.{network.__qualname__}" == f"{LIBRARY}.{path}"


# ---------------------------------------------------------------- what may import what


def test_the_library_imports_nothing_that_stands_above_it():
    for name, tree in TREES.items():
        if not name.startswith(ABOVE_THE_LIBRARY) and not is_command(name):
            above = {each for each in imported(tree, lazy=True) if each.startswith(ABOVE_THE_LIBRARY)}
            assert not above, f"{name} imports {above}"


def test_no_converter_imports_another():
    sources = {name for name in FILES if name.startswith(ABOVE_THE_LIBRARY[0] + ".")}
    sources = {name for name in sources if name.rpartition(".")[2] not in NO_SOURCE - {"custom"}}
    assert len(sources) > 10
    for name in sources:
        others = our_modules(imported(TREES[name], lazy=True)) & sources - {name}
        if name.endswith(".gibson"):  # labels other patients of BTCV in BTCV's own values
            others = {other for other in others if not other.endswith(".btcv")}
        assert not others, f"{name} imports {others}"


@pytest.mark.parametrize("lazy", [False, True], ids=["at import", "also inside functions"])
def test_imports_have_no_circle(lazy):
    graph = {name: our_modules(imported(tree, lazy)) - {name} for name, tree in TREES.items()}
    graph[LIBRARY] = set()  # the public names in it are a face, loaded when asked for
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_commands_import_next_to_nothing_before_they_run():
    light = (
        "__future__",
        "argparse",
        "dataclasses",
        "math",
        "os",
        "pathlib",
        "sys",
        *(f"{LIBRARY}.{name}" for name in ("choices", "commands", "errors")),
    )
    for name, tree in TREES.items():
        if is_command(name):
            heavy = {each for each in imported(tree) if not each.startswith(light)}
            assert not heavy, f"{name} imports {heavy} at its top: --help becomes slow"


# ---------------------------------------------------------------- what of nnU-Net we lean on


def of_trainer(name: str) -> bool:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    return hasattr(nnUNetTrainer, name)


def of_predictor(name: str) -> bool:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    return hasattr(nnUNetPredictor, name)


def of_logger(name: str) -> bool:
    from nnunetv2.training.logging.nnunet_logger import LocalLogger, MetaLogger

    return hasattr(LocalLogger(), name) or name in MetaLogger.__init__.__code__.co_names


# What nnU-Net promises to nobody: a new version that renames one of these fails here first.
NNUNET_INTERNALS = {
    "_build_loss": of_trainer,  # overridden
    "_do_i_compile": of_trainer,  # overridden
    "_get_deep_supervision_scales": of_trainer,
    "_set_batch_size_and_oversample": of_trainer,
    "_internal_get_sliding_window_slicers": of_predictor,
    "_internal_maybe_mirror_and_predict": of_predictor,
    "local_logger": of_logger,
    "my_fantastic_logging": of_logger,
}
OTHERS_INTERNALS = {
    "_exit",
    "_fields",
    "_option_string_actions",
    "_orig_mod",
}  # os, tuple, argparse, torch


@pytest.mark.parametrize("name", NNUNET_INTERNALS)
def test_nnunet_still_has_what_we_use_of_its_inside(name):
    assert NNUNET_INTERNALS[name](name)


def test_every_private_name_of_others_is_listed_here():
    used, ours = set(), set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                (ours if isinstance(node.ctx, ast.Store) else used).add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                ours.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                ours.update(target.id for target in targets if isinstance(target, ast.Name))
    foreign = {name for name in used - ours if name.startswith("_") and not name.startswith("__")}
    assert foreign <= set(NNUNET_INTERNALS) | OTHERS_INTERNALS
    assert set(NNUNET_INTERNALS) <= used | ours, "listed, but no longer used"


def test_private_names_of_the_trainer_are_overridden_on_purpose():
    """A method of ours that happens to bear the name of one of nnU-Net's would replace it."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunetv2_clip.training import trainer, variants

    inherited = {name for name in dir(nnUNetTrainer) if name.startswith("_") and not name.startswith("__")}
    for module in (trainer, variants):
        for each in vars(module).values():
            if isinstance(each, type) and issubclass(each, trainer.CLIPUniversalTrainer):
                assert inherited & set(vars(each)) <= set(NNUNET_INTERNALS), each
