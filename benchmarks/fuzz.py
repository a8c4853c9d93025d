"""Damaged files of every kind that jaxdeblend reads: do readers say so, and do they come back at all?

    python -m benchmarks.fuzz --mutations 2000 [--seed 0] [--limit 20]

Good files are made in a temporary folder, damaged at random (bits flipped, cut short, numbers of headers changed,
blocks zeroed, doubled, lost), and read. A reader may read what is harmless; else it must raise ValueError or OSError in
which the file is named. Prints one line of JSON. Reading is done by another process, which may hang or crash.
"""

import argparse
import gzip
import json
import multiprocessing
import re
import resource
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

import jaxdeblend as jd
from jaxdeblend.io import read_models, read_planes, read_positions, read_segmentation, write_models
from jaxdeblend.io.models import SourceModel

DOCUMENTED = (ValueError, OSError)
"""Errors that a reader may raise for a damaged file; the command line ends with exit code 2."""

_NUMBERS = (b"-1", b"0", b"1", b"7", b"99999", b"1000000000", b"99999999999999", b"NaN", b"1e999", b"T", b"''")
"""Values that replace numbers in texts and headers."""


def damaged(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Damage a file in one of several ways.

    Parameters
    ----------
    content
        The good file.
    rng
        Source of chance.

    Returns
    -------
    str, bytes
        What was done, and the damaged file.
    """
    way = list(_WAYS)[int(rng.integers(len(_WAYS)))]
    return way, _WAYS[way](content, rng)


def _flipped(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 2, 8, 64]))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _flipped_at_the_start(content: bytes, rng: np.random.Generator) -> bytes:
    """Headers are at the start, and small in large files."""
    cut = min(len(content), 6000)
    return _flipped(content[:cut], rng) + content[cut:]


def _cut_short(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content)))]


def _number_changed(content: bytes, rng: np.random.Generator) -> bytes:
    """A number in a header or a text becomes another; in FITS cards, everything else keeps its place."""
    found = list(re.finditer(rb"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])", content[:200_000]))
    if not found:
        return _flipped(content, rng)
    match = found[int(rng.integers(len(found)))]
    new = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    start = match.start()
    if content.startswith(b"SIMPLE"):  # right-justified, as FITS has it
        room = len(content[:start]) - len(content[:start].rstrip(b" ")) + len(match[0])
        return content[: match.end() - room] + new.rjust(room)[-room:] + content[match.end() :]
    return content[:start] + new + content[match.end() :]


def _zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    start, length = _block(content, rng)
    return content[:start] + bytes(length) + content[start + length :]


def _doubled(content: bytes, rng: np.random.Generator) -> bytes:
    start, length = _block(content, rng)
    return content[: start + length] + content[start:]


def _lost(content: bytes, rng: np.random.Generator) -> bytes:
    start, length = _block(content, rng)
    return content[:start] + content[start + length :]


def _noise(content: bytes, rng: np.random.Generator) -> bytes:
    start, length = _block(content, rng)
    return content[:start] + rng.bytes(length) + content[start + length :]


def _block(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    length = int(min(rng.choice([1, 4, 80, 512, 2880]), len(content)))
    return int(rng.integers(len(content) - length + 1)), length


_WAYS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "flipped": _flipped,
    "flipped at the start": _flipped_at_the_start,
    "cut short": _cut_short,
    "number changed": _number_changed,
    "block zeroed": _zeroed,
    "block doubled": _doubled,
    "block lost": _lost,
    "block of noise": _noise,
}


def good_files(folder: Path) -> dict[str, Path]:
    """Write a small good file of each kind.

    Parameters
    ----------
    folder
        Where to.

    Returns
    -------
    dict[str, Path]
        The files, by kind; each kind has a reader in `READERS`.
    """
    rng = np.random.default_rng(5)
    made: dict[str, Path] = {}
    for kind, write in {**_image_files(rng), **_table_files(rng), **_text_files()}.items():
        made[kind] = folder / kind
        write(made[kind])
    made |= _stores(folder)
    return made


def _image_files(rng: np.random.Generator) -> dict[str, Callable[[Path], object]]:
    image = rng.normal(size=(24, 20)).astype(np.float32)
    header = fits.Header({"BUNIT": "nJy", "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 2.0})
    header.update({"CDELT1": -5e-5, "CDELT2": 5e-5, "CRPIX1": 10.0, "CRPIX2": 12.0, "MAGZERO": 27.0})
    mask = (rng.random((24, 20)) < 0.1).astype(np.int32)
    named = fits.Header({"MP_SAT": 1, "MP_BAD": 0})
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, header, name="IMAGE"), fits.ImageHDU(mask, named, name="MASK")]
    hdus.append(fits.ImageHDU(np.ones_like(image), name="VARIANCE"))
    squeezed = [fits.CompImageHDU(hdu.data, hdu.header, name=hdu.name) for hdu in hdus[1:]]
    star = _gaussian(15, 1.5)
    source = SourceModel(1, jd.Box((2, 3), (5, 4)), np.ones((1, 5, 4), np.float32))
    field = jd.PolynomialPSFField(np.array([[star, 0.1 * star, 0 * star]]), scale=(1000, 2000))
    return {
        "image.fits": lambda path: fits.HDUList(hdus).writeto(path),
        "image.fits.fz": lambda path: fits.HDUList([fits.PrimaryHDU(), *squeezed]).writeto(path),
        "image.fits.gz": lambda path: fits.HDUList(hdus).writeto(path),
        "stamp.fits": lambda path: fits.PrimaryHDU(star).writeto(path),
        "model.psf": lambda path: jd.io.write_psf_field(path, field, ["r"]),
        "models.fits": lambda path: write_models(path, bands=("r",), model=image[None], sources=[source]),
        "segments.fits": lambda path: fits.PrimaryHDU(mask).writeto(path),
    }


def _gaussian(edge: int, sigma: float) -> np.ndarray:
    """Stamp of a PSF."""
    profile = np.exp(-0.5 * ((np.arange(edge) - edge // 2) / sigma) ** 2)
    return (np.outer(profile, profile) / profile.sum() ** 2).astype(np.float32)


def _table_files(rng: np.random.Generator) -> dict[str, Callable[[Path], object]]:
    table = Table({"id": np.arange(6), "x": rng.uniform(0, 20, 6), "y": rng.uniform(0, 24, 6)})
    lines = ["#   1 NUMBER  Running number", "#   2 X_IMAGE  x  [pixel]", "#   3 Y_IMAGE  y  [pixel]"]
    lines += [f"{row['id']} {row['x']} {row['y']}" for row in table]
    return {
        "peaks.ecsv": lambda path: table.write(path),
        "peaks.csv": lambda path: table.write(path),
        "peaks.fits": lambda path: table.write(path),
        "peaks.xml": lambda path: table.write(path, format="votable"),
        "peaks.cat": lambda path: path.write_text("\n".join(lines) + "\n"),
    }


def _text_files() -> dict[str, Callable[[Path], object]]:
    described = (
        'bands = ["g", "r"]\nimages = "coadd_{band}.fits"\npsf_fwhm = {g = 4.1, r = 3.8}\nbad_mask = ["SAT", 5]\n'
    )
    part = {"origin": [7, 7], "peak": [7, 8], "spectrum": [2.0], "shape": [1, 3], "morph": [0.5, 1.0, 0.5]}
    blend = {"origin": [5, 5], "shape": [8, 9], "sources": {"31": {"components": [part]}}}
    stamp = {"bands": ["r"], "model_psf": [0.1, 0.8, 0.1], "model_psf_shape": [1, 3]}
    whole = {"blends": {"4": blend}, "metadata": stamp, "version": "1.0.0"}

    def archive(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, value in {"4": blend, "metadata": stamp, "version": "1.0.0"}.items():
                packed.writestr(name, json.dumps(value))

    return {
        "exposure.toml": lambda path: path.write_text(described),
        "config.toml": lambda path: path.write_text(jd.DeblendConfig(mask_limits={"SAT": 0.5}).to_toml()),
        "lsst.json": lambda path: path.write_text(json.dumps(whole)),
        "lsst.scarlet": archive,
    }


def _stores(folder: Path) -> dict[str, Path]:
    """A store, and the same as FITS."""
    made = {"store.h5": folder / "store.h5", "store.fits": folder / "store.fits"}
    psf = _gaussian(9, 0.8)
    header = jd.StoreHeader(bands=("g", "r"), config="threshold = 5.0\n", model_psf=psf, unit="nJy")
    with jd.StoreWriter.create(made["store.h5"], header) as writer:
        for number in range(3):
            sources = [jd.PointSource((8.3, 7.6 + number), [5.0, 6.0]), jd.PointSource((4.3, 3.6), [1.0, 2.0])]
            fit = jd.FitResult(
                jd.Blend.of(sources, frame=(16, 16)), np.array([2.5], np.float32), np.array(1), np.array(0)
            )
            writer.append(jd.StoredBlend(number, 0, jd.Box((40, 52), (16, 16)), np.arange(2) + 2 * number, fit))
        writer.append(jd.StoredBlend(9, 1, jd.Box((0, 0), (8, 8)), np.array([9]), reason="too large"))
    jd.store_to_fits(made["store.h5"], made["store.fits"])
    return made


def _read_exposure(path: Path) -> None:
    jd.read_exposure(path, bands=("r",), psf=jd.GaussianPSF(1.5))
    for plane in read_planes(path, ("r",)).planes:
        plane.pixels.read()


def _read_store(path: Path) -> None:
    with jd.ModelStore(path) as store:
        for one in store.records():
            assert one.box is not None
        for name in ("blends", "sources", "components"):
            store.table(name)
        store.model_types(), store.reasons(), store.digest()


def _from_fits(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _read_store_made_of(path, Path(folder) / "again.h5")


def _read_store_made_of(path: Path, out: Path) -> None:
    jd.store_from_fits(path, out)
    try:
        _read_store(out)
    except DOCUMENTED as error:
        raise AssertionError(f"{path}: was taken for good, but makes a damaged store: {error}") from error


READERS: dict[str, Callable[[Path], object]] = {
    "image.fits": _read_exposure,
    "image.fits.fz": _read_exposure,
    "image.fits.gz": _read_exposure,
    "stamp.fits": lambda path: jd.io.read_psf(path, ("r",)),
    "model.psf": lambda path: jd.read_psf_field(path, ("r",)),
    "models.fits": read_models,
    "segments.fits": read_segmentation,
    "peaks.ecsv": read_positions,
    "peaks.csv": read_positions,
    "peaks.fits": read_positions,
    "peaks.xml": read_positions,
    "peaks.cat": read_positions,
    "exposure.toml": jd.read_description,
    "config.toml": jd.DeblendConfig.from_toml,
    "lsst.json": jd.read_lsst_models,
    "lsst.scarlet": jd.read_lsst_models,
    "store.h5": _read_store,
    "store.fits": _from_fits,
}
"""Readers of each kind of file, which read all of it."""


def attempt(kind: str, good: bytes, seed: tuple[int, ...], folder: Path) -> tuple[str, int, str]:
    """Damage a file and read it.

    Parameters
    ----------
    kind
        A key of `READERS`.
    good
        The good file.
    seed
        Seed of the damage.
    folder
        Where the damaged file is put.

    Returns
    -------
    way, code, message
        What was done to it, the exit code that the command line would give, and what the reader said.
    """
    rng = np.random.default_rng(seed)
    if kind.endswith(".gz") and rng.random() < 0.5:  # inside, too: else its checksum finds everything
        way, content = damaged(gzip.decompress(good), rng)
        content = gzip.compress(content)
    else:
        way, content = damaged(good, rng)
    path = folder / kind
    path.write_bytes(content)
    try:
        READERS[kind](path)
    except DOCUMENTED as error:
        named = str(path) in str(error) and len(str(error).splitlines()) == 1
        return way, 2 if named else 3, f"{type(error).__name__}: {error}"
    except Exception as error:
        return way, 3, f"{type(error).__name__}: {error}"
    return way, 0, ""


def _work(connection: Any, folder: str) -> None:
    """Read what the other process asks for."""
    files = {kind: path.read_bytes() for kind, path in good_files(Path(folder) / "good").items()}
    for kind, content in files.items():
        (Path(folder) / kind).write_bytes(content)
        READERS[kind](Path(folder) / kind)  # good files are read
    connection.send("ready")
    while True:
        kind, seed = connection.recv()
        found = attempt(kind, files[kind], seed, Path(folder))
        connection.send((*found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


class _Reader:
    """Another process that reads; one that hangs or crashes is replaced."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.start()

    def start(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "good").mkdir(parents=True)
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, str(self.folder)), daemon=True)
        self.process.start()
        other.close()
        assert self.connection.recv() == "ready"

    def ask(self, kind: str, seed: tuple[int, ...], limit: float) -> tuple[str, int, str, int]:
        """Outcome of `attempt`, and kilobytes of memory; code -1 for a hang, -2 for a crash."""
        self.connection.send((kind, seed))
        try:
            if self.connection.poll(limit):
                return self.connection.recv()
            outcome = ("", -1, "hangs", 0)
        except EOFError:
            outcome = ("", -2, "crashes", 0)
        self.process.kill()
        self.process.join()
        self.start()
        return outcome


def outcomes(mutations: int, seed: int, limit: float) -> Iterator[tuple[str, tuple[int, ...], str, int, str, int]]:
    """Damage and read files of all kinds in turn.

    Parameters
    ----------
    mutations
        How many.
    seed
        Seed of all.
    limit
        Seconds after which a reader is taken to hang.

    Yields
    ------
    kind, seed, way, code, message, kilobytes
        Of each.
    """
    kinds = list(READERS)
    with tempfile.TemporaryDirectory() as folder:
        reader = _Reader(Path(folder) / "work")
        for number in range(mutations):
            kind = kinds[number % len(kinds)]
            yield kind, (seed, number), *reader.ask(kind, (seed, number), limit)
        reader.process.kill()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds after which a reader hangs")
    parser.add_argument("--show", action="store_true", help="print every message")
    given = parser.parse_args()
    codes, kinds, faults, memory = Counter(), {}, [], [0]
    for kind, seed, way, code, message, kilobytes in outcomes(given.mutations, given.seed, given.limit):
        codes[code] += 1
        kinds.setdefault(kind, Counter())[code] += 1
        memory.append(kilobytes or memory[-1])
        if code not in (0, 2):
            faults.append({"kind": kind, "seed": seed, "way": way, "said": message[:200]})
        if given.show:
            print(kind, seed, way, code, message[:200], flush=True)
    summary = {
        "mutations": given.mutations,
        "kinds": {kind: {"read": found[0], "refused": found[2]} for kind, found in kinds.items()},
        "undocumented": codes[3],
        "hangs": codes[-1],
        "crashes": codes[-2],
        "exit_codes": {str(code): count for code, count in sorted(codes.items())},
        "most_memory_gb": round(max(memory) * 1024 / 1e9, 2),
        "faults": faults,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
