"""The processes of a training check the label maps side by side, and note what agrees only when all have found so."""

import pickle
from collections import Counter
from types import SimpleNamespace

import pytest
from torch import distributed as dist
from torch import multiprocessing

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.training import checks

CASES = tuple(f"case{number}" for number in range(5))
LABELS = {"background": 0, "liver": 1, "spleen": 2}


def check(folder):
    """What one process reads, in order."""
    read, load = [], checks.load_pickle
    checks.load_pickle = lambda path: read.append(path.rpartition("/")[2].removesuffix(".pkl")) or load(path)
    manifest = Manifest(UNIVERSAL, {name: CasePresence("custom", ("liver",)) for name in CASES})
    dataset = SimpleNamespace(source_folder=str(folder), identifiers=list(CASES))
    try:
        checks.check_cases(manifest, LABELS, dataset)
    except UserError as error:
        return read, str(error)
    finally:
        checks.load_pickle = load
    return read, ""


def one_rank(rank, folder, store, queue):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    queue.put((rank, *check(folder)))
    dist.destroy_process_group()


def in_two_processes(folder):
    """Rank -> the cases that it has read, and the error; without those that the end of the other has ended."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    store = folder.with_name(f"store{len(list(folder.parent.iterdir()))}")
    processes = [context.Process(target=one_rank, args=(rank, folder, store, queue)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    found = {}
    while not queue.empty():
        rank, read, error = queue.get()
        found[rank] = [read, error]
    return found


def write_case(folder, name, drawn=1):
    (folder / f"{name}.pkl").write_bytes(pickle.dumps({"class_locations": {drawn: [(0, 0, 0, 0)]}}))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "plans_3d_fullres"
    folder.mkdir()
    for name in CASES:
        write_case(folder, name)
    return folder


def test_each_case_is_read_once_by_one_process_and_never_again(folder):
    found = in_two_processes(folder)
    assert found == {0: [["case0", "case2", "case4"], ""], 1: [["case1", "case3"], ""]}
    assert check(folder) == ([], "")
    assert in_two_processes(folder) == {0: [[], ""], 1: [[], ""]}


def test_a_case_that_disagrees_is_named_by_the_process_that_reads_it_and_nothing_is_noted(folder):
    write_case(folder, "case1", drawn=2)
    ((rank, (read, error)),) = in_two_processes(folder).items()
    assert rank == 1 and read == ["case1"] and "'case1'" in error and "spleen" in error
    assert not list(folder.parent.glob("*_labels_checked.json"))
    write_case(folder, "case1")
    assert Counter(check(folder)[0]) == Counter(CASES)
