"""Files are whole or not there, whatever interrupts their writing."""

import errno
import os
import time
from pathlib import Path

import pytest

from nnunetv2_clip import files
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import (
    changed_keys,
    read_json,
    read_record,
    remove_leftovers,
    replacing,
    replacing_folder,
    write_json,
    write_text,
)


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as beside:
        beside.write_text("ne")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.json"]
    with replacing(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new" and os.listdir(path.parent) == ["a.json"]


def test_content_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: done.append(os.readlink(f"/proc/self/fd/{handle}")))
    replace = os.replace
    monkeypatch.setattr(files.os, "replace", lambda *names: (done.append("renamed"), replace(*names)))
    write_text(tmp_path / "a.txt", "text")
    assert done[0].endswith(".part") and done[1:] == ["renamed", str(tmp_path)]


def test_two_writers_never_share_a_name(tmp_path):
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"  # the outer block ended last


def test_a_long_name_and_a_link_can_be_written(tmp_path):
    name = "x" * 250
    write_text(tmp_path / name, "text")
    with replacing(tmp_path / "link") as beside:
        beside.symlink_to(tmp_path / name)
    assert (tmp_path / "link").read_text() == "text"


def test_a_folder_is_whole_or_not_there(tmp_path):
    with pytest.raises(ValueError), replacing_folder(tmp_path / "f") as beside:
        (beside / "a").write_text("1")
        raise ValueError
    assert os.listdir(tmp_path) == []
    with replacing_folder(tmp_path / "f") as beside:
        (beside / "a").write_text("1")
    assert (tmp_path / "f" / "a").read_text() == "1"


def dead_process() -> int:
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    return dead


def test_a_folder_that_a_killed_process_had_begun_is_gone_when_it_is_made_again(tmp_path):
    begun = tmp_path / f".model.{files._owner()}-{dead_process()}-0123456789ab.part"
    other = tmp_path / begun.name.replace("model", "other")
    for folder in (begun, other):
        folder.mkdir()
        (folder / "weights.pth").write_bytes(b"half")
    with replacing_folder(tmp_path / "model") as beside:
        (beside / "a").write_text("1")
    assert sorted(os.listdir(tmp_path)) == [other.name, "model"]


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    dead = dead_process()
    of_the_dead = tmp_path / f".a.{files._owner()}-{dead}-0123456789ab.part"
    of_the_living = tmp_path / f".a.{files._owner()}-{os.getpid()}-0123456789ab.part"
    of_another_host = tmp_path / ".a.00000000-1-0123456789ab.part"
    long_ago = tmp_path / ".b.00000000-1-0123456789ab.part"
    for path in (of_the_dead, of_the_living, of_another_host, long_ago, tmp_path / "kept.part"):
        path.write_text("")
    yesterday = time.time() - files.SECONDS_UNTIL_STALE - 60
    os.utime(long_ago, (yesterday, yesterday))
    remove_leftovers(tmp_path, tmp_path / "missing")
    assert {path.name for path in tmp_path.iterdir()} == {of_the_living.name, of_another_host.name, "kept.part"}


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100000])
def test_a_record_that_is_missing_or_broken_means_not_done(tmp_path, content):
    if content is not None:
        (tmp_path / "r.json").write_bytes(content)
    assert read_record(tmp_path / "r.json") is None


def test_json_comes_back_and_what_is_none_is_named(tmp_path):
    write_json(tmp_path / "r.json", {"a": [1, 2]})
    assert read_record(tmp_path / "r.json") == read_json(tmp_path / "r.json", "") == {"a": [1, 2]}
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(UserError, match=r"r\.json: is not JSON .* Remedy: make it again"):
        read_json(tmp_path / "r.json", "make it again")


def test_changed_keys_compares_as_json():
    assert changed_keys({"a": [1], "b": 2}, {"a": (1,), "b": 3, "c": 4}) == ["b", "c"]
    assert changed_keys(None, {"a": 1}) == ["a"]


def test_a_file_moves_to_another_disk(tmp_path, monkeypatch):
    real = os.replace

    def replace(source, target):
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to("somewhere")
    for name in ("file", "link"):
        files.move(tmp_path / name, tmp_path / "other" / name)
    assert (tmp_path / "other" / "file").read_text() == "content"
    assert os.readlink(tmp_path / "other" / "link") == "somewhere"
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_killed_processes_left_of_a_page_goes_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(files.psutil, "pid_exists", lambda number: False)
    for name in ("page.html", "other.html"):
        files._unfinished(tmp_path / name).write_text("half")
    files.write_text(tmp_path / "page.html", "whole \udcff")
    assert sorted(path.name.split(".html")[0] for path in tmp_path.iterdir()) == [".other", "page"]
    assert (tmp_path / "page.html").read_text() == r"whole \udcff"
