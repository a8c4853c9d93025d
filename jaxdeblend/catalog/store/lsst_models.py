"""Models of scarlet_lite and of the LSST pipelines, read from their JSON.

Known are one JSON text for a catalog (`ScarletModelData`) and the archive ``.scarlet`` with one text per parent, both
as written by v29 and before (``factorized``, ``psfShape``) and since (schema 1: ``metadata``, parents with children).
Their models are spectra times shapes about whole pixels, which are models of jaxdeblend as they are.
"""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ...fitting import Initialization
from ...fitting.ladder import PSF_EDGES, rung
from ...instrument.box import Box
from ...io import PathLike
from ...io.reading import reading
from ...model.blend import Blend, Stack
from ...model.component import AbstractComponent, CubeComponent, FactorizedComponent
from ...model.morphology import ImageMorphology
from ...model.prior import CenterPrior
from ...model.spectrum import FreeSpectrum

_HIERARCHIES = ("hierarchical", "hierarchical_blend", "lsst_hierarchical")
_ABOUT = ("metadata", "psf", "psf_shape", "version", "model_type")
_FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError, MemoryError)

_FARTHEST = 4
"""A peak is at most so many edges of its component's stamp away from it; scarlet_lite has it inside."""


@dataclasses.dataclass(frozen=True, eq=False)
class LsstBlend:
    """A blend of scarlet_lite.

    Attributes
    ----------
    id
        Number of the blend; that of its parent, if the parent is one blend.
    parent
        Number of the parent.
    box
        Its window, in pixels of the exposure.
    source_ids
        Numbers of the sources.
    blend
        The model, in pixels of the window.
    """

    id: int
    parent: int
    box: Box
    source_ids: Int[np.ndarray, " source"]
    blend: Blend


@dataclasses.dataclass(frozen=True, eq=False)
class LsstModels:
    """Models of a catalog of the LSST pipelines.

    Attributes
    ----------
    blends
        The blends.
    bands
        Names of the bands.
    model_psf
        PSF of their model space, a stamp; None if the file has none.
    isolated
        Numbers of sources that are alone, of which the file holds footprints and no models.
    """

    blends: tuple[LsstBlend, ...]
    bands: tuple[str, ...]
    model_psf: Float[np.ndarray, "y x"] | None
    isolated: tuple[int, ...]


def read_lsst_models(
    path: PathLike,
    *,
    parents: Iterable[int] | None = None,
    bands: Iterable[str] | None = None,
    options: Initialization | None = None,
    center_error: float = 0.0,
) -> LsstModels:
    """Read models that scarlet_lite or the LSST pipelines wrote.

    Sources are centred on the whole pixel of their peak; their shapes are put on odd stamps about it, of a size of a
    short ladder, and rendered they are the same pixels. Give `jaxdeblend.Observation` the model PSF of the file.

    Parameters
    ----------
    path
        JSON, or an archive ``.scarlet``.
    parents
        Numbers of the parents wanted; by default all. Of an archive, no others are read.
    bands
        Names of the bands, for files that do not have them.
    options
        Constraints and priors that the shapes get, for a fit that goes on.
    center_error
        1σ error per axis of the positions in pixels, for a fit that goes on; 0 keeps them fixed.

    Returns
    -------
    LsstModels
        The blends, in the order of the file.

    Raises
    ------
    ValueError
        If the file is no such file, or something in it is not understood.
    FileNotFoundError
        If it does not exist.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> import jaxdeblend as jd
    >>> component = {"origin": [7, 7], "peak": [7, 8], "spectrum": [2.0], "shape": [1, 3], "morph": [0.5, 1.0, 0.5]}
    >>> blend = {"origin": [5, 5], "shape": [8, 9], "sources": {"31": {"components": [component]}}}
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.json"
    >>> _ = path.write_text(json.dumps({"blends": {"4": blend}, "metadata": {"bands": ["r"]}, "version": "1.0.0"}))
    >>> (read,) = jd.read_lsst_models(path).blends
    >>> read.box, read.source_ids, read.blend.centers
    (Box(start=(5, 5), shape=(8, 9)), array([31]), array([[2., 3.]], dtype=float32))
    """
    with reading(path, "file of models of scarlet_lite"):
        return _read(Path(path), parents, bands, options, center_error)


def _read(
    path: Path,
    parents: Iterable[int] | None,
    bands: Iterable[str] | None,
    options: Initialization | None,
    center_error: float,
) -> LsstModels:
    wanted = None if parents is None else {int(number) for number in parents}
    about, entries = _contents(path, wanted)
    known = _bands(path, about, entries) if bands is None else tuple(bands)
    converter = _Converter(len(known), Initialization() if options is None else options, center_error)
    isolated = tuple(number for number, entry in entries.items() if _is_isolated(entry))
    blends: list[LsstBlend] = []
    for number, entry in entries.items():
        if _is_isolated(entry):
            continue
        try:
            blends += converter.blends(number, number, entry)
        except _FAULTS as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path}: blend {number} is not understood ({reason}).") from error
    return LsstModels(tuple(blends), known, _model_psf(path, about), isolated)


def _is_isolated(entry: dict[str, Any]) -> bool:
    """Whether it is a source that is alone: a footprint without a model."""
    return entry.get("source_type") == "isolated"


def _contents(path: Path, wanted: Collection[int] | None) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """What the file says about all blends, and the blends and isolated sources by number."""
    try:
        data = _unzipped(path, wanted) if zipfile.is_zipfile(path) else _one_text(path)
        entries = {int(key): entry for part in ("blends", "isolated") for key, entry in data.pop(part, {}).items()}
        if not all(isinstance(entry, dict) for entry in (*entries.values(), data.get("metadata") or {})):
            raise ValueError("a blend, or what is said about all of them, is no object of JSON")
    except (ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: not models of scarlet_lite ({reason}).") from error
    version = str(data.get("version") or "1")
    if version.split(".")[0] not in ("0", "1"):
        raise ValueError(f"{path}: models of version {version}; known are those up to version 1.")
    if wanted is None:
        return data, entries
    if missing := sorted(set(wanted) - entries.keys()):
        raise ValueError(f"parents: {path} has no parent {missing[0]}.")
    return data, {number: entry for number, entry in entries.items() if number in wanted}


def _one_text(path: Path) -> dict[str, Any]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or "blends" not in data:
        raise ValueError("it has no blends")
    return data


def _unzipped(path: Path, wanted: Collection[int] | None) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        read = [name for name in names if wanted is None or name in _ABOUT or name in {str(n) for n in wanted}]
        data = {name: json.loads(archive.read(name)) for name in read}
    about = {name: data.pop(name) for name in _ABOUT if name in data}
    if "psf_shape" in about:  # as the keys are called in one text
        about["psfShape"] = about.pop("psf_shape")
    return about | {"blends": data}


def _bands(path: Path, about: dict[str, Any], entries: dict[int, dict[str, Any]]) -> tuple[str, ...]:
    """Names of the bands: of the whole file, or, in older ones, of each blend."""
    places = [about, about.get("metadata") or {}]
    places += [place for entry in _leaves(entries.values()) for place in (entry, entry.get("metadata") or {})]
    found = {tuple(str(band) for band in place["bands"]) for place in places if place.get("bands")}
    if len(found) != 1:
        raise ValueError(f"bands: {path} names {' and '.join(map(str, sorted(found))) or 'none'}; give them.")
    return found.pop()


def _leaves(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Blends without those that only have others below them."""
    for entry in entries:
        if isinstance(entry.get("children"), dict):
            yield from _leaves(entry["children"].values())
        else:
            yield entry


def _model_psf(path: Path, about: dict[str, Any]) -> np.ndarray | None:
    """PSF of model space; versions differ in where it is, and how its shape is written."""
    metadata = about.get("metadata") or {}
    for place, name, shape in (
        (metadata, "model_psf", "model_psf_shape"),
        (metadata, "psf", "psfShape"),
        (about, "psf", "psfShape"),
    ):
        value = place.get(name)
        if isinstance(value, dict):
            value, edges = value.get("data"), value.get("shape")
        else:
            edges = place.get(shape)
        if value is not None and edges is not None:
            try:
                stamp = np.asarray(value, np.float32).reshape(edges)
                return stamp.reshape(stamp.shape[-2:])
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}: the model PSF is not understood ({error}).") from error
    return None


@dataclasses.dataclass(frozen=True)
class _Converter:
    """Makes models of what JSON says."""

    n_bands: int
    options: Initialization
    center_error: float

    def blends(self, number: int, parent: int, entry: dict[str, Any]) -> Iterator[LsstBlend]:
        """The blend of an entry, or those below it."""
        kind = entry.get("blend_type", "blend")
        if kind in _HIERARCHIES:
            for key, child in entry["children"].items():
                yield from self.blends(int(key), parent, child)
        elif kind == "blend":
            yield self._blend(number, parent, entry)
        else:
            raise ValueError(f"unknown blend_type {kind!r}")

    def _blend(self, number: int, parent: int, entry: dict[str, Any]) -> LsstBlend:
        box = Box(_pair(entry["origin"]), _pair(entry["shape"]))
        members: dict[object, list[tuple[int, AbstractComponent]]] = {}
        centers = np.zeros((len(entry["sources"]), 2), np.float32)
        for k, source in enumerate(entry["sources"].values()):
            parts = list(_parts(source))
            if not parts:
                raise ValueError(f"source {k} has no components")
            peak = _peak(parts[0])
            centers[k] = np.subtract(peak, box.start)
            for part in parts:
                component = self._component(part, peak)
                shapes = tuple(leaf.shape for leaf in jax.tree.leaves(component))
                members.setdefault((type(component), shapes), []).append((k, component))
        sigma = np.full(len(centers), self.center_error, np.float32)
        stacks = tuple(Stack.of([part for _, part in group], [k for k, _ in group]) for group in members.values())
        blend = Blend(  # on the host, as all that is read from files
            centers=centers,
            center_prior=CenterPrior(centers, sigma),
            stacks=jax.device_get(stacks),
            active=np.ones(len(centers), dtype=bool),
            frame=box.shape,
        )
        return LsstBlend(number, parent, box, np.array([int(key) for key in entry["sources"]], np.int64), blend)

    def _component(self, part: dict[str, Any], peak: tuple[int, int]) -> AbstractComponent:
        kind = part.get("component_type") or ("factorized" if "morph" in part else "cube")
        if kind == "factorized":
            morph = _stamp(np.asarray(part["morph"], np.float32).reshape(part["shape"]), _pair(part["origin"]), peak)
            spectrum = np.asarray(part["spectrum"] if "spectrum" in part else part["sed"], np.float32)
            self._check_bands(len(spectrum))
            shape = ImageMorphology(jnp.asarray(morph), self.options.constraints, self.options.priors)
            return FactorizedComponent(FreeSpectrum(jnp.asarray(spectrum)), shape)
        if kind in ("cube", "component"):
            cube = np.asarray(part["model"], np.float32).reshape(part["shape"])
            self._check_bands(len(cube))
            return CubeComponent(jnp.asarray(_stamp(cube, _pair(part["origin"]), peak)), self.options.constraints)
        raise ValueError(f"unknown component_type {kind!r}")

    def _check_bands(self, n_bands: int) -> None:
        if n_bands != self.n_bands:
            raise ValueError(f"a component of {n_bands} bands among those of {self.n_bands}")


def _parts(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Components of a source; before schema 1 those that are factorized were in a list of their own."""
    kind = source.get("source_type", "source")
    if kind != "source":
        raise ValueError(f"unknown source_type {kind!r}")
    yield from source.get("factorized", ())
    yield from source["components"]


def _peak(part: dict[str, Any]) -> tuple[int, int]:
    y, x = part["peak"] if "peak" in part else part["center"]
    return round(y), round(x)


def _pair(values: Iterable[Any]) -> tuple[int, int]:
    y, x = (int(value) for value in values)
    return y, x


def _stamp(image: np.ndarray, origin: tuple[int, int], peak: tuple[int, int]) -> np.ndarray:
    """The image (…, y, x), whose first pixel is `origin`, on an odd stamp centred on the peak."""
    offsets = [
        (start - center, start - center + n) for start, n, center in zip(origin, image.shape[-2:], peak, strict=True)
    ]
    reach = max(max(-first, last - 1, 0) for first, last in offsets)
    if reach > _FARTHEST * max(image.shape[-2:]):
        raise ValueError(f"the peak {peak} is {reach} pixels from its component at {origin}")
    half = rung(2 * reach + 1, PSF_EDGES) // 2
    stamp = np.zeros((*image.shape[:-2], 2 * half + 1, 2 * half + 1), image.dtype)
    stamp[(..., *(slice(first + half, last + half) for first, last in offsets))] = image
    return stamp
