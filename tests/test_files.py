"""Files are written whole or not at all."""

import os
import subprocess
import sys

import pytest
import torch

from acon_mm.errors import UserError
from acon_mm.files import read_json, replacing, write_json

FILL = """
import resource, sys, torch
from acon_mm.errors import UserError
from acon_mm.files import replacing
for path, size in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    for share in range(10):
        limit = int(share / 10 * size)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            with replacing(path) as file:
                torch.save(torch.full((size // 4,), 2.0), file)
        except UserError as error:
            print(error)
"""
KILL = """
import itertools, os, signal, sys
from acon_mm.files import replacing
path, found, left = sys.argv[1], b"old", 0
touching = {"open", "write", "flush", "fsync", "__exit__", "replace", "unlink"}

def kill(frame, event, function):
    if event in ("c_call", "c_return") and function.__name__ in touching and next(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)

for number in itertools.count():  # before and after each call that touches the file
    new = str(number).encode() * 100_000
    child = os.fork()
    if child == 0:
        calls = itertools.count()
        sys.setprofile(kill)
        with replacing(path) as file:
            file.write(new[:150_000])
            file.write(new[150_000:])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    old, found = found, open(path, "rb").read()
    assert found in (old, new), number
    if status == 0:
        break
    left += found == old
print(number, left)
"""


def write(path, content):
    with replacing(path) as file:
        file.write(content)


def test_new_files_links_and_rights(tmp_path):
    path, link = tmp_path / "new/one.txt", tmp_path / "link"
    write(path, b"one")
    assert path.read_bytes() == b"one"
    assert path.stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o22))
    link.symlink_to(path)
    write(link, b"two")
    assert link.is_symlink() and path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["one.txt"]


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_a_mapped_file_can_be_replaced_by_its_own_tensors(link, tmp_path):
    source = target = tmp_path / "x.pth"
    torch.save(torch.arange(1e6), source)
    if link:
        target = tmp_path / "link.pth"
        link(source, target)
    tensor = torch.load(source, mmap=True)
    with replacing(target) as file:
        torch.save(tensor + 1, file)
        torch.save(tensor, file)
    torch.testing.assert_close(tensor, torch.arange(1e6), rtol=0, atol=0)
    assert target.stat().st_size > 2 * 4e6


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, RuntimeError, UserError])
def test_an_error_leaves_what_was_there(error, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(error, match=r"^mine$"), replacing(path) as file:
        file.write(b"new")
        raise error("mine")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def no_directory(path):
    path.parent.write_bytes(b"")


def directory(path):
    path.mkdir(parents=True)


def read_only(path):
    path.parent.mkdir()
    path.touch()
    path.chmod(0o400)


PLACES = {directory: "it is not a file", no_directory: "File exists|Not a directory", read_only: "it is read-only"}


@pytest.mark.parametrize("place", PLACES)
def test_an_impossible_place_is_one_line(place, tmp_path, monkeypatch):
    path = tmp_path / "parent/x"
    place(path)
    if place is read_only:  # root may write it all the same
        monkeypatch.setattr(os, "access", lambda path, mode: bool(path.stat().st_mode & 0o200))
    with pytest.raises(UserError, match=f"^cannot write {path}: ({PLACES[place]})$"):
        write(path, b"new")
    assert len([found for found in tmp_path.rglob("*") if found.is_file()]) == (place is not directory)


@pytest.mark.parametrize("name", ["/proc/acon_mm/x", "/dev/null", "x" * 300])
def test_a_strange_place_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^cannot write {name}: [^\\n]+$"):
        write(name, b"new")
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    """With a limit on the size of a file in place of a small disk."""
    paths = {tmp_path / f"{size}.pth": size for size in (40, 40_000, 4_000_000)}
    for path in paths:
        path.write_bytes(b"old")
    arguments = [str(each) for item in paths.items() for each in item]
    done = subprocess.run([sys.executable, "-c", FILL, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"cannot write {path}: File too large" for path in paths for _ in range(10)]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(paths, b"old")


@pytest.mark.slow
def test_a_kill_at_any_time_leaves_a_whole_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILL, path], capture_output=True, text=True, check=True)
    kills, left = map(int, done.stdout.split())
    assert 10 < left < kills  # some before the file was replaced, some after


def test_damaged_json_is_told(tmp_path, capsys):
    path = tmp_path / "x.json"
    assert read_json(path) is None and capsys.readouterr().err == ""
    write_json(path, {"a": 1})
    assert read_json(path, "a") == {"a": 1} and capsys.readouterr().err == ""
    for content, keys in ((b'{"a": ', []), (b"[1]", ["a"]), (b'{"b": 1}', ["a"]), (b"\xff", [])):
        path.write_bytes(content)
        assert read_json(path, *keys) is None
        assert capsys.readouterr().err == f"warning: {path} is damaged, and is not used\n"
