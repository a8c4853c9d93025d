"""Models in FITS: the scene, the residual, and a stamp of each source."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from jaxtyping import Float

from ..instrument.box import Box
from .files import PathLike, atomic_path
from .pixels import open_fits
from .planes import celestial_wcs


class SourceModel(eqx.Module):
    """Model of one source as observed, on the window of pixels where it matters.

    Attributes
    ----------
    id
        Its id in the catalog.
    box
        Window in the pixels of the exposure.
    image
        Model in image units, with the PSF.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.io import SourceModel
    >>> SourceModel(7, jd.Box((10, 12), (3, 4)), np.ones((2, 3, 4), np.float32)).box.stop
    (13, 16)
    """

    id: int = eqx.field(static=True)
    box: Box
    image: Float[np.ndarray, "band y x"]


class ModelFile(eqx.Module):
    """What a file of models holds.

    Attributes
    ----------
    model, residual
        Sum of all sources as observed, and data minus model; None where the file has none.
    sources
        Model of each source.
    bands
        Names of the bands.
    wcs
        Celestial coordinates, None if unknown.
    """

    model: Float[np.ndarray, "band y x"] | None
    residual: Float[np.ndarray, "band y x"] | None
    sources: tuple[SourceModel, ...]
    bands: tuple[str, ...] = eqx.field(static=True)
    wcs: WCS | None = eqx.field(static=True)


def write_models(
    path: PathLike,
    *,
    bands: Sequence[str],
    model: Float[np.ndarray, "band y x"] | None = None,
    residual: Float[np.ndarray, "band y x"] | None = None,
    sources: Sequence[SourceModel] = (),
    wcs: WCS | None = None,
    unit: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write models to a FITS file, whole or not at all.

    Extensions MODEL and RESIDUAL are cubes (band, y, x) with the WCS; the table SOURCES has a row for each
    source: ID, Y0 and X0 (first pixel of its stamp in the cubes, counted from 0), NY, NX, and STAMP, the
    band × NY × NX pixels of its model as observed, an array of variable length.

    Parameters
    ----------
    path
        The file, ``.fits``.
    bands
        Names of the bands, written to the cards BAND1, BAND2, ...
    model, residual
        Cubes (band, y, x), in image units.
    sources
        Model of each source.
    wcs
        Celestial coordinates of the cubes.
    unit
        Unit of the images.
    overwrite
        Whether the file may exist already.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If a cube or a stamp does not fit the bands or its window.
    FileExistsError
        If the file exists and `overwrite` is not set.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.io import SourceModel, read_models, write_models
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.fits"
    >>> source = SourceModel(1, jd.Box((2, 3), (5, 4)), np.ones((2, 5, 4), np.float32))
    >>> _ = write_models(path, bands=("g", "r"), model=np.zeros((2, 16, 16), np.float32), sources=[source])
    >>> read_models(path).sources[0].box
    Box(start=(2, 3), shape=(5, 4))
    """
    bands = tuple(bands)
    cubes = {name: cube for name, cube in (("MODEL", model), ("RESIDUAL", residual)) if cube is not None}
    for name, cube in cubes.items():
        if cube.ndim != 3 or len(cube) != len(bands):
            raise ValueError(f"{name.lower()}: got shape {cube.shape}; give (band, y, x) for the bands {bands}.")
    for source in sources:
        if source.image.shape != (len(bands), *source.box.shape):
            raise ValueError(
                f"sources: source {source.id} has a stamp of shape {source.image.shape} for {len(bands)} "
                f"bands and the window {source.box}."
            )
    header = _image_header(bands, wcs, unit)
    images = [fits.ImageHDU(np.asarray(cube), header, name=name) for name, cube in cubes.items()]
    with atomic_path(path, overwrite=overwrite) as temporary:
        fits.HDUList([fits.PrimaryHDU(header=_band_cards(bands)), *images, _source_table(sources)]).writeto(temporary)
    return Path(path)


def write_cubes(
    path: PathLike,
    cubes: Mapping[str, np.ndarray],
    *,
    bands: Sequence[str],
    wcs: WCS | None = None,
    unit: str | None = None,
    cards: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write cubes (band, y, x) to a FITS file, whole or not at all.

    Parameters
    ----------
    path
        The file, ``.fits``.
    cubes
        The cubes by the name of their extension; truth values become 0 and 1.
    bands
        Names of the bands, written to the cards BAND1, BAND2, ...
    wcs
        Celestial coordinates of the cubes.
    unit
        Unit of the cubes, but for those of whole numbers.
    cards
        More cards for the header of the file.
    overwrite
        Whether the file may exist already.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If a cube does not fit the bands.
    FileExistsError
        If the file exists and `overwrite` is not set.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> from jaxdeblend.io import write_cubes
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "cutout.fits"
    >>> cube = np.ones((2, 16, 12), np.float32)
    >>> _ = write_cubes(path, {"IMAGE": cube, "MASK": cube > 1}, bands="gr", unit="nJy", cards={"ID": 7})
    >>> fits.getheader(path)["ID"], fits.getdata(path, "MASK").shape
    (7, (2, 16, 12))
    """
    bands = tuple(bands)
    hdus: list[Any] = [fits.PrimaryHDU(header=_band_cards(bands))]
    for key, value in (cards or {}).items():
        hdus[0].header[key] = value
    for name, cube in cubes.items():
        if cube.ndim != 3 or len(cube) != len(bands):
            raise ValueError(f"cubes: got shape {cube.shape} for {name}; give (band, y, x) for the bands {bands}.")
        pixels = cube.astype(np.uint8) if cube.dtype == bool else cube
        header = _image_header(bands, wcs, unit if np.issubdtype(pixels.dtype, np.floating) else None)
        hdus.append(fits.ImageHDU(np.ascontiguousarray(pixels), header, name=name))
    with atomic_path(path, overwrite=overwrite) as temporary:
        fits.HDUList(hdus).writeto(temporary)
    return Path(path)


def read_models(path: PathLike) -> ModelFile:
    """Read the models that `write_models` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    ModelFile
        Cubes and stamps.

    Raises
    ------
    ValueError
        If the file is not one of models.
    FileNotFoundError
        If the file does not exist.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from jaxdeblend.io import read_models, write_models
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.fits"
    >>> _ = write_models(path, bands=("g",), residual=np.ones((1, 8, 8), np.float32))
    >>> read_models(path).residual.shape
    (1, 8, 8)
    """
    with open_fits(path) as hdus:
        if "SOURCES" not in hdus:
            raise ValueError("not a file of models: it has no extension SOURCES")
        header = hdus[0].header
        bands = tuple(str(header[f"BAND{number + 1}"]) for number in range(header["NBANDS"]))
        images = {name: hdus[name] for name in ("MODEL", "RESIDUAL") if name in hdus}
        wcs = next((celestial_wcs(hdu.header, hdus) for hdu in images.values()), None)
        cubes = {name: _native(hdu.data) for name, hdu in images.items()}
        for name, cube in cubes.items():
            if cube.ndim != 3 or len(cube) != len(bands):
                raise ValueError(f"{name} has shape {cube.shape}, but there are {len(bands)} bands")
        sources = tuple(_source(row, len(bands)) for row in hdus["SOURCES"].data)
    return ModelFile(cubes.get("MODEL"), cubes.get("RESIDUAL"), sources, bands, wcs)


def _band_cards(bands: tuple[str, ...]) -> fits.Header:
    cards = [("NBANDS", len(bands), "number of bands")]
    cards += [(f"BAND{number + 1}", band, "name of a band, in order") for number, band in enumerate(bands)]
    return fits.Header(cards)


def _image_header(bands: tuple[str, ...], wcs: WCS | None, unit: str | None) -> fits.Header:
    header = fits.Header() if wcs is None else wcs.to_header(relax=True)
    header.pop("WCSAXES", None)  # the WCS has two axes, the cube three
    header.extend(_band_cards(bands))
    if unit is not None:
        header["BUNIT"] = unit
    return header


def _source_table(sources: Sequence[SourceModel]) -> fits.BinTableHDU:
    stamps = np.empty(len(sources), dtype=object)
    for number, source in enumerate(sources):
        stamps[number] = np.ascontiguousarray(source.image).ravel()
    double = any(source.image.dtype.itemsize == 8 for source in sources)
    numbers = {
        "ID": [source.id for source in sources],
        "Y0": [source.box.start[0] for source in sources],
        "X0": [source.box.start[1] for source in sources],
        "NY": [source.box.shape[0] for source in sources],
        "NX": [source.box.shape[1] for source in sources],
    }
    columns = [fits.Column(name, "K", array=np.array(values, dtype=np.int64)) for name, values in numbers.items()]
    columns.append(fits.Column("STAMP", "QD()" if double else "QE()", array=stamps))
    return fits.BinTableHDU.from_columns(columns, name="SOURCES")


def _source(row: Any, n_bands: int) -> SourceModel:
    box = Box((int(row["Y0"]), int(row["X0"])), (int(row["NY"]), int(row["NX"])))
    return SourceModel(int(row["ID"]), box, _native(row["STAMP"]).reshape(n_bands, *box.shape))


def _native(values: np.ndarray) -> np.ndarray:
    return np.array(values, dtype=values.dtype.newbyteorder("="))
