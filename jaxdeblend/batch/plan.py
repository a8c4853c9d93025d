"""From ragged to rectangular: a short ladder of shapes, and the packing of blends into lanes.

A compiled program has fixed shapes. Each blend is padded to the next rung of a ladder along every axis (image edge, PSF
edge, number of sources), so that a catalog of any blends needs a few programs only. Padding changes nothing:
added pixels have weight 0 and lie outside the model's extent, added sources are dark and counted nowhere.

Sources may join a fitted blend, the *start* of its next fit; it is padded in the same way.

Everything here is NumPy on the host; nothing is compiled for the shapes of the input.
"""

import functools
import logging
from collections.abc import Hashable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Bool, PyTree

from ..fitting.initialize import check_centers, check_errors
from ..fitting.ladder import IMAGE_EDGES, PSF_EDGES, SOURCE_COUNTS, default_stamp_edge, rung
from ..instrument.accuracy import within_accuracy
from ..instrument.hits import find_hits, without_pixels
from ..instrument.noise_units import in_noise_units
from ..instrument.observation import Observation
from ..instrument.sky import Sky, find_sky, without_sky
from ..model.blend import Blend
from ..runtime.host import AnyArray

logger = logging.getLogger(__name__)

PIXELS_PER_SOURCE = 11
"""Edge of a blend in pixels for each of its sources, usually; fewer sources do not get a program of their own."""


BYTES_PER_PIXEL = 64
"""Bytes that a fit takes for each pixel of each source in each band, at the largest."""


def fitting_memory(edge: int, n_bands: int, n_sources: int) -> int:
    """Bytes that a blend of a shape that is on the ladders takes while it is fitted, about.

    Examples
    --------
    >>> fitting_memory(256, 5, 64) / 1e9
    1.34217728
    """
    return BYTES_PER_PIXEL * edge**2 * n_bands * n_sources


@dataclass(frozen=True)
class Bucket:
    """Shapes of one compiled program.

    Attributes
    ----------
    n_bands, n_sources
        Numbers of bands and of sources that are initialized.
    image_edge, psf_edge, stamp_edge
        Edges in pixels.
    model_psf
        Kind of the PSF of model space.
    has_kernel
        Whether the observations bring their own difference kernels.
    n_start
        Number of sources of the start.
    start
        Kind of the start; None if there is none.
    """

    n_bands: int
    image_edge: int
    psf_edge: int
    stamp_edge: int
    n_sources: int
    model_psf: Hashable
    has_kernel: bool
    n_start: int = 0
    start: Hashable = None

    @property
    def text(self) -> str:
        """In words, for which blends the program is."""
        sources = self.n_sources + self.n_start
        return f"up to {self.image_edge} x {self.image_edge} pixels, {sources} sources, {self.n_bands} bands"

    @property
    def cost(self) -> int:
        """What buckets are ordered by, about the time of a call."""
        return self.image_edge**2 * (self.n_sources + self.n_start)

    @property
    def memory(self) -> int:
        """Bytes that one blend takes while it is fitted, about."""
        return fitting_memory(self.image_edge, self.n_bands, self.n_sources + self.n_start)

    @property
    def beyond_ladder(self) -> bool:
        """Whether the shape is one that no other blend is likely to have."""
        return self.image_edge > IMAGE_EDGES[-1] or self.psf_edge > PSF_EDGES[-1] or self.n_sources > SOURCE_COUNTS[-1]


@dataclass(frozen=True)
class Item:
    """One blend of a batch, still ragged.

    Attributes
    ----------
    obs
        Observation as it is fitted.
    centers
        Positions (source, 2).
    errors
        Error of each position.
    given
        Observation as it came, with all its pixels and in its own unit.
    hits
        Pixels that were made unusable because no PSF can produce them.
    sky
        Sky that was taken out of the observation, in its unit.
    unit
        Number that fluxes are multiplied by to be in the unit of `given`; a power of two.
    start
        Fitted blend that these sources join; None if there is none.
    """

    obs: Observation
    centers: np.ndarray
    errors: np.ndarray
    given: Observation
    hits: Bool[np.ndarray, "band y x"]
    sky: Sky
    unit: float = 1.0
    start: Blend | None = None

    @classmethod
    def of(cls, obs: Observation, centers: object, center_error: object, start: Blend | None = None) -> "Item":
        """Check the positions and their errors, and the frame of the start."""
        positions = check_centers(centers)
        if start is not None and start.frame != obs.shape:
            raise ValueError(f"blend: got a blend for the frame {start.frame}; the observation's shape is {obs.shape}.")
        if start is not None and not len(start.centers):
            start = None
        errors = check_errors(center_error, len(positions))
        given = obs
        obs, unit = in_noise_units(obs)
        start = None if start is None else start.scaled(1 / unit)
        hits = find_hits(obs)
        if hits.any():
            logger.info("%d pixels are left out: no PSF can produce them", hits.sum())
            obs = without_pixels(obs, hits)
        known = positions if start is None else np.concatenate([positions, np.asarray(start.center_prior.mean)])
        sky = find_sky(obs, known)
        if sky.plane.any():
            levels = zip(obs.bands, sky.plane[:, 0] * unit, strict=True)
            logger.info("sky is taken out: %s", ", ".join(f"{band} {level:.3g}" for band, level in levels))
            obs = without_sky(obs, sky)
        obs = within_accuracy(obs)
        return cls(obs, positions, errors, given, hits, sky, unit, start)

    @functools.cached_property
    def bucket(self) -> Bucket:
        """The smallest rungs that hold the blend."""
        edge = rung(max(self.obs.shape), IMAGE_EDGES)
        usual = min(SOURCE_COUNTS, key=lambda count: abs(count - min(edge, 128) / PIXELS_PER_SOURCE))
        start = None if self.start is None else self.padded_start
        return Bucket(
            n_bands=len(self.obs.bands),
            image_edge=edge,
            psf_edge=rung(_kernel_edge(self.obs), PSF_EDGES),
            stamp_edge=default_stamp_edge((edge, edge)),
            n_sources=rung(max(len(self.centers), usual if start is None else 1), SOURCE_COUNTS),
            model_psf=jax.tree.structure(self.obs.model_psf),
            has_kernel=self.obs.kernel is not None,
            n_start=0 if start is None else len(start.centers),
            start=None if start is None else (jax.tree.structure(start), tuple(map(np.shape, jax.tree.leaves(start)))),
        )

    @functools.cached_property
    def padded_start(self) -> Blend:
        """The start, padded to rungs; components of one kind lie in one stack."""
        assert self.start is not None
        edge, dtype = rung(max(self.obs.shape), IMAGE_EDGES), np.asarray(self.obs.images).dtype
        n_sources = rung(len(self.start.centers), SOURCE_COUNTS)

        def n_components(n_own: int) -> int:
            """At least half as many components as sources: few sizes occur."""
            return rung(max(n_own, n_sources // 2), SOURCE_COUNTS)

        start = jax.tree.map(lambda leaf: _of_dtype(leaf, dtype), self.start)
        return start.padded(n_sources, n_components, frame=(edge, edge))


def pack(items: list[Item], bucket: Bucket, lanes: int) -> dict[str, PyTree]:
    """Pad blends of one bucket and stack them; lanes without a blend have no data.

    Parameters
    ----------
    items
        At most `lanes` blends.
    bucket
        Shapes.
    lanes
        Number of lanes.

    Returns
    -------
    dict
        ``images``, ``weights`` (lane, band, y, x), ``psf`` (lane, band, y, x), ``psf_edge`` (lane), the edge before
        padding, ``extent`` (lane, 2), ``centers`` (lane, source, 2), ``errors`` and ``active`` (lane, source),
        ``model_psf``, and ``kernel`` and ``start`` if the bucket has them.
    """
    n_bands, edge, count = bucket.n_bands, bucket.image_edge, bucket.n_sources
    dtype = np.asarray(items[0].obs.images).dtype
    packed: dict[str, PyTree] = {
        "images": np.zeros((lanes, n_bands, edge, edge), dtype),
        "weights": np.zeros((lanes, n_bands, edge, edge), dtype),
        "psf": np.zeros((lanes, n_bands, bucket.psf_edge, bucket.psf_edge), dtype),
        "psf_edge": np.full(lanes, bucket.psf_edge, np.int32),
        "extent": np.ones((lanes, 2), np.int32),
        "centers": np.zeros((lanes, count, 2), dtype),
        "errors": np.zeros((lanes, count), dtype),
        "active": np.zeros((lanes, count), bool),
    }
    packed["psf"][:, :, bucket.psf_edge // 2, bucket.psf_edge // 2] = 1.0
    for lane, item in enumerate(items):
        height, width = item.obs.shape
        n = len(item.centers)
        packed["images"][lane, :, :height, :width] = item.obs.images
        packed["weights"][lane, :, :height, :width] = item.obs.weights
        packed["psf"][lane] = _psf_stamps(item.obs, bucket.psf_edge)
        packed["psf_edge"][lane] = item.obs.psf.edge
        packed["extent"][lane] = (height, width)
        packed["centers"][lane, :n] = item.centers
        packed["errors"][lane, :n] = item.errors
        packed["active"][lane, :n] = True
    members = [items[min(lane, len(items) - 1)].obs for lane in range(lanes)]
    packed["model_psf"] = jax.tree.map(lambda *leaves: np.stack(leaves), *[obs.model_psf for obs in members])
    if bucket.has_kernel:
        packed["kernel"] = np.stack([_padded(obs.kernel.image, bucket.psf_edge) for obs in members if obs.kernel])
    if bucket.start is not None:
        starts = [items[min(lane, len(items) - 1)].padded_start for lane in range(lanes)]
        packed["start"] = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
    return packed


def lane_of(lanes: PyTree, number: int | AnyArray) -> PyTree:
    """One lane (or some) of what `pack` makes, or of what comes of it."""
    return jax.tree.map(lambda array: array[number, ...], lanes)


def _kernel_edge(obs: Observation) -> int:
    """The larger of the edges of PSF and difference kernel."""
    return obs.psf.edge if obs.kernel is None else max(obs.psf.edge, obs.kernel.image.shape[-1])


def _of_dtype(leaf: AnyArray, dtype: np.dtype) -> np.ndarray:
    """An array on the host, of this type if it is one of floating-point numbers."""
    array = np.asarray(leaf)
    return array.astype(dtype) if np.issubdtype(array.dtype, np.floating) else array


def _padded(stamps: AnyArray, edge: int) -> np.ndarray:
    margin = (edge - stamps.shape[-1]) // 2
    return np.pad(np.asarray(stamps), ((0, 0), (margin, margin), (margin, margin)))


def _psf_stamps(obs: Observation, edge: int) -> np.ndarray:
    """PSF of every band, zero-padded from its natural edge."""
    stamps = np.asarray(obs.psf.stamp(obs.psf.edge))
    stamps = np.broadcast_to(stamps, (len(obs.bands), *stamps.shape[1:]))
    return _padded(stamps, edge)
