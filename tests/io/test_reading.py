import errno
import os

import numpy as np
import pytest
from astropy.io import fits

from jaxdeblend.io import read_planes
from jaxdeblend.io.fits_structure import BLOCK, check_structure
from jaxdeblend.io.reading import reading


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "some.dat"
    path.write_bytes(b"content")
    return path


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no good.\nmore"), r"some.dat: not a readable list \(no good\)\.$"),
        (KeyError("bands"), r"some.dat: not a readable list \(it has no bands\)\.$"),
        (
            IndexError("0 of 0"),
            r"some.dat: not a readable list \(damaged, its reader stopped with IndexError: 0 of 0\)",
        ),
        (OSError("no SIMPLE"), r"some.dat: not a readable list \(no SIMPLE\)"),
        (MemoryError(), r"some.dat: not a readable list \(MemoryError\)"),
        (OSError(errno.EINVAL, "Invalid argument"), r"some.dat: not a readable list \(\[Errno 22\] Invalid argument\)"),
    ],
)
def test_errors_of_readers_name_the_file(path, error, message):
    with pytest.raises(ValueError, match=message) as caught, reading(path, "list"):
        raise error
    assert caught.value.__cause__ is error


def test_errors_of_the_disk_stay_what_they_are(path):
    with pytest.raises(OSError, match="some.dat") as caught, reading(path, "list"):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.errno == errno.EIO
    with pytest.raises(ImportError, match="h5py"), reading(path, "list"):
        raise ImportError("h5py")
    with pytest.raises(ValueError, match=f"^{path}: said before") as caught, reading(path, "list"):
        raise ValueError(f"{path}: said before")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: is no regular file"), reading(tmp_path / "pipe", "list"):
        pass


def changed(path, **cards):
    """Change cards of the last extension as they are, in bytes."""
    content = path.read_bytes()
    for key, value in cards.items():
        start = content.rindex(f"{key:<8}=".encode())
        content = content[:start] + f"{key:<8}= {value:>20}".ljust(80).encode() + content[start + 80 :]
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"NAXIS1": 1_000_000_000}, "promises 24000000000 bytes of data, but the file ends .* bytes too early"),
        ({"NAXIS1": -3}, "NAXIS1 of extension 1 is -3, which cannot be"),
        ({"NAXIS1": "NaN"}, "NAXIS1 of extension 1 is 'NaN'; it must be a whole number"),
        ({"NAXIS": 10**9}, "NAXIS of extension 1 is 1000000000"),
        ({"BITPIX": -33}, "BITPIX of extension 1 is -33, which is no type of pixels"),
        ({"PCOUNT": 10**12}, "promises .* bytes of data"),
    ],
)
def test_headers_that_promise_too_much(tmp_path, cards, message):
    path = tmp_path / "image.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((6, 5), np.float32), name="IMAGE")]).writeto(path)
    changed(path, **cards)
    with pytest.raises(ValueError, match=f"image.fits: not a readable FITS file .*{message}"):
        read_planes(path)


def test_tables_and_compressed_images_that_promise_too_much(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("x", "D", array=np.ones(3))])
    table.writeto(tmp_path / "table.fits")
    changed(tmp_path / "table.fits", TFIELDS=10**9)
    with pytest.raises(ValueError, match="table.fits: .*TFIELDS of extension 1 is 1000000000"):
        read_planes(tmp_path / "table.fits")
    fits.CompImageHDU(np.ones((60, 50), np.int16)).writeto(tmp_path / "small.fz")
    for cards in ({"ZNAXIS1": 10**9, "ZTILE1": 10**9}, {"ZNAXIS2": 10**9}, {"ZTILE2": 0}, {"ZBITPIX": 3}):
        fits.CompImageHDU(np.ones((60, 50), np.int16)).writeto(tmp_path / "image.fz", overwrite=True)
        changed(tmp_path / "image.fz", **cards)
        with pytest.raises(ValueError, match=r"image.fz: not a readable FITS file \(.*extension 1"):
            read_planes(tmp_path / "image.fz")


def test_what_follows_the_last_extension(tmp_path):
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(np.ones((6, 5))).writeto(path)
    content = path.read_bytes()
    path.write_bytes(content + bytes(3 * BLOCK))
    check_structure(path)  # padding, as tapes had it
    path.write_bytes(content + b"?".ljust(BLOCK))
    with pytest.raises(ValueError, match="extension 1 begins with '[?]', which is no header"):
        check_structure(path)
    path.write_bytes(content[:BLOCK].replace(b"END", b"ENT"))
    with pytest.raises(ValueError, match="the header of extension 0 has no END"):
        check_structure(path)
