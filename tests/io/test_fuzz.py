"""Damaged files of every kind: read if that is harmless, else one line that names the file."""

import signal

import pytest

from benchmarks.fuzz import READERS, attempt, good_files

EACH = 12
"""Mutations of each kind; `python -m benchmarks.fuzz` tries thousands."""

LIMIT = 30
"""Seconds after which a reader hangs."""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return good_files(tmp_path_factory.mktemp("good"))


class HangError(BaseException):
    """Passes through whatever readers catch."""


def hang(*_):
    raise HangError


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_read_or_refused(good, kind, tmp_path):
    READERS[kind](good[kind])
    content = good[kind].read_bytes()
    before = signal.signal(signal.SIGALRM, hang)
    try:
        for seed in range(EACH):
            signal.alarm(LIMIT)
            way, code, message = attempt(kind, content, (1, seed), tmp_path)
            assert code in (0, 2), f"{way}, seed {seed}: {message}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file_of_its_kind(good, kind, tmp_path):
    path = tmp_path / kind
    with pytest.raises(FileNotFoundError, match=f"{kind}: no such file"):
        READERS[kind](path)
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=f"{kind}: is a symbolic link to .*gone, which does not exist"):
        READERS[kind](path)
    path.unlink()
    path.symlink_to(good[kind])
    READERS[kind](path)
    path.unlink()
    path.write_bytes(b"")
    if kind != "config.toml":  # an empty one says nothing, and that is allowed
        with pytest.raises(ValueError, match=f"{kind}: "):
            READERS[kind](path)
    if kind != "store.h5":  # the folder of a run that has not ended is read, too
        path.unlink()
        path.mkdir()
        with pytest.raises(IsADirectoryError, match=f"{kind}: is a folder; give the name of a file"):
            READERS[kind](path)
