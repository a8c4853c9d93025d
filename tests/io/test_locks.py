import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

import jaxdeblend as jd
from jaxdeblend.io import locks, output_folder, staged_folder
from jaxdeblend.io.locks import FOLDER_LOCK, Lock, locked_folder
from tests.stored_blends import HEADER, record

HOLDER = """
    import fcntl, json, os, socket, sys
    file = open(sys.argv[1], "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": "2026-01-01T00:00:00"}, file)
    file.flush()
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_owner_is_named_and_a_dead_one_does_not_block(tmp_path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        owner = rf"models.h5: process {holder.pid} on {socket.gethostname()} writes it since 20.*\(lock .*lock\)"
        with pytest.raises(BlockingIOError, match=owner):
            Lock(path, "models.h5")
        holder.kill()
    assert path.exists()  # what a killed process leaves
    lock = Lock(path, "models.h5")
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.release()
    lock.release()
    assert not path.exists()


def test_shared_locks(tmp_path):
    with locked_folder(tmp_path, shared=True):
        with locked_folder(tmp_path, shared=True):
            pass
        with pytest.raises(BlockingIOError, match="this process on"):
            Lock(tmp_path / FOLDER_LOCK, tmp_path)
    with locked_folder(tmp_path), pytest.raises(BlockingIOError), locked_folder(tmp_path, shared=True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_flock_the_owner_in_the_file_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    path = tmp_path / "lock"
    lock = Lock(path, "x")
    with pytest.raises(BlockingIOError, match="this process on"):
        Lock(path, "x")
    lock.release()
    for owner, free in (
        ({"host": "elsewhere", "pid": 1, "since": "today"}, False),
        ({"host": socket.gethostname(), "pid": 2**22 + 7}, True),
        ({}, True),
    ):
        path.write_text(json.dumps(owner))
        if free:
            Lock(path, "x").release()
        else:
            with pytest.raises(BlockingIOError, match="process 1 on elsewhere writes it since today"):
                Lock(path, "x")


def test_a_store_has_one_writer(tmp_path):
    path = tmp_path / "models.h5"
    first = jd.StoreWriter.create(path, HEADER)
    first.append(record(7))
    for begin in (jd.StoreWriter.resume, jd.StoreWriter.create):
        with pytest.raises(BlockingIOError, match=r"models.h5: this process on .* writes it since"):
            begin(path, HEADER)
    first.suspend()
    with pytest.raises(ValueError, match="models.h5: is closed; resume it"):
        first.append(record(3))
    with jd.StoreWriter.resume(path, HEADER) as second:
        assert second.finished == {7}
        with pytest.raises(BlockingIOError):
            jd.StoreWriter.resume(path)
    with pytest.raises(ValueError, match="made with another bands"):
        jd.StoreWriter.resume(path, jd.StoreHeader(bands=("z",)))
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_has_one_run(tmp_path):
    with (
        output_folder(tmp_path / "out"),
        pytest.raises(BlockingIOError, match="out: this process on"),
        staged_folder(tmp_path / "out", ["a"]),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_none(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with (
        pytest.raises(NotADirectoryError, match="file: is a file; give the name of a folder"),
        output_folder(tmp_path / "file" / "out"),
    ):
        pass
    with pytest.raises(FileNotFoundError, match="link: is a symbolic link to .*gone"), output_folder(tmp_path / "link"):
        pass
    (tmp_path / "gone").mkdir()
    with output_folder(tmp_path / "link") as folder:
        (folder / "a").touch()
    assert (tmp_path / "gone" / "a").exists()
