import pathlib

import pytest

from jaxdeblend.io import atomic_path, paths_of_bands, staged_folder


def test_paths_of_bands(tmp_path):
    for name in ("a_g.fits", "a_r.fits", "cube.fits"):
        (tmp_path / name).touch()
    expected = (tmp_path / "a_g.fits", tmp_path / "a_r.fits")
    assert paths_of_bands(tmp_path / "a_{band}.fits", ["g", "r"]) == expected
    assert paths_of_bands([str(path) for path in expected], ["g", "r"]) == expected
    assert paths_of_bands(tmp_path / "cube.fits", ["g", "r"]) == (tmp_path / "cube.fits",)
    with pytest.raises(FileNotFoundError, match="a_i.fits: no such file"):
        paths_of_bands(tmp_path / "a_{band}.fits", ["g", "i"])
    with pytest.raises(ValueError, match="paths: got 2 files for the 3 bands"):
        paths_of_bands(expected, ["g", "r", "i"])


def test_atomic_path_leaves_nothing_when_it_fails(tmp_path):
    target = tmp_path / "a.txt"
    with pytest.raises(RuntimeError, match="half"), atomic_path(target) as path:
        path.write_text("half")
        raise RuntimeError("half")
    assert list(tmp_path.iterdir()) == []


def test_atomic_path_replaces_only_when_told_to(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileExistsError, match="a.txt: exists already"), atomic_path(target):
        pass
    with pytest.raises(FileExistsError, match="is a folder"), atomic_path(tmp_path, overwrite=True):
        pass
    with pytest.raises(RuntimeError), atomic_path(target, overwrite=True) as path:
        path.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    with atomic_path(target, overwrite=True) as path:
        path.write_text("new")
    assert target.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "place", ["jaxdeblend.io.locks._sign", "jaxdeblend.io.files._refuse_existing", "pathlib.Path.mkdir"]
)
def test_an_interrupt_while_a_folder_is_made_leaves_nothing(place, tmp_path, monkeypatch):
    """Signals arrive at any moment: once the folder is there, whatever is called next may be interrupted."""
    make = pathlib.Path.mkdir

    def interrupted(*arguments, **options):
        if place == "pathlib.Path.mkdir":
            make(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "new" / "out", ["a.txt"]):
        raise AssertionError("the folder was not made")
    assert not list(tmp_path.iterdir())


def test_staged_folder_moves_all_or_nothing(tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(KeyboardInterrupt), staged_folder(out, ["a", "b"]) as stage:
        (stage / "a").write_text("a")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with staged_folder(out, ["a", "b"]) as stage:
        (stage / "a").write_text("a")
        (stage / "b").write_text("b")
        assert {path.name for path in out.iterdir()} == {stage.name, ".jaxdeblend.lock"}
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"]
    with pytest.raises(FileExistsError, match="b: exists already"), staged_folder(out, ["c", "b"]):
        pass
    with staged_folder(out, ["a"], overwrite=True) as stage:
        (stage / "a").write_text("new")
    assert (out / "a").read_text() == "new" and (out / "b").read_text() == "b"
