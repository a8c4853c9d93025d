"""From ragged to rectangular: a short ladder of shapes, and the packing of blends into lanes.

A compiled program has fixed shapes. Each blend is padded to the next rung of a ladder along every axis (image edge, PSF
edge, number of sources), so that a catalog of any blends needs a few programs only. Padding changes nothing:
added pixels have weight 0 and lie outside the model's extent, added sources are dark and counted nowhere.

Everything here is NumPy on the host; nothing is compiled for the shapes of the input.
"""

import functools
from collections.abc import Hashable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import PyTree

from ..fit.initialize import check_centers, check_errors
from ..fit.ladder import IMAGE_EDGES, PSF_EDGES, SOURCE_COUNTS, default_stamp_edge, rung
from ..instrument.host import AnyArray
from ..instrument.observation import Observation

PIXELS_PER_SOURCE = 11
"""Edge of a blend in pixels for each of its sources, usually; fewer sources do not get a program of their own."""


@dataclass(frozen=True)
class Bucket:
    """Shapes of one compiled program.

    Attributes
    ----------
    n_bands, n_sources
        Numbers of bands and sources.
    image_edge, psf_edge, stamp_edge
        Edges in pixels.
    model_psf
        Kind of the PSF of model space.
    has_kernel
        Whether the observations bring their own difference kernels.
    """

    n_bands: int
    image_edge: int
    psf_edge: int
    stamp_edge: int
    n_sources: int
    model_psf: Hashable
    has_kernel: bool

    @property
    def cost(self) -> int:
        """What buckets are ordered by, about the time of a call."""
        return self.image_edge**2 * self.n_sources

    @property
    def memory(self) -> int:
        """Bytes that one blend takes while it is fitted, about."""
        return 64 * self.image_edge**2 * self.n_bands * self.n_sources

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
        Observation.
    centers
        Positions (source, 2).
    errors
        Error of each position.
    """

    obs: Observation
    centers: np.ndarray
    errors: np.ndarray

    @classmethod
    def of(cls, obs: Observation, centers: object, center_error: object) -> "Item":
        """Check the positions and their errors."""
        positions = check_centers(centers)
        return cls(obs, positions, check_errors(center_error, len(positions)))

    @functools.cached_property
    def bucket(self) -> Bucket:
        """The smallest rungs that hold the blend."""
        edge = rung(max(self.obs.shape), IMAGE_EDGES)
        usual = min(SOURCE_COUNTS, key=lambda count: abs(count - min(edge, 128) / PIXELS_PER_SOURCE))
        return Bucket(
            n_bands=len(self.obs.bands),
            image_edge=edge,
            psf_edge=rung(_kernel_edge(self.obs), PSF_EDGES),
            stamp_edge=default_stamp_edge((edge, edge)),
            n_sources=rung(max(len(self.centers), usual), SOURCE_COUNTS),
            model_psf=jax.tree.structure(self.obs.model_psf),
            has_kernel=self.obs.kernel is not None,
        )


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
        ``model_psf``, and ``kernel`` if the bucket has one.
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
    return packed


def lane_of(lanes: PyTree, number: int | AnyArray) -> PyTree:
    """One lane (or some) of what `pack` makes, or of what comes of it."""
    return jax.tree.map(lambda array: array[number, ...], lanes)


def _kernel_edge(obs: Observation) -> int:
    """The larger of the edges of PSF and difference kernel."""
    return obs.psf.edge if obs.kernel is None else max(obs.psf.edge, obs.kernel.image.shape[-1])


def _padded(stamps: AnyArray, edge: int) -> np.ndarray:
    margin = (edge - stamps.shape[-1]) // 2
    return np.pad(np.asarray(stamps), ((0, 0), (margin, margin), (margin, margin)))


def _psf_stamps(obs: Observation, edge: int) -> np.ndarray:
    """PSF of every band, zero-padded from its natural edge."""
    stamps = np.asarray(obs.psf.stamp(obs.psf.edge))
    stamps = np.broadcast_to(stamps, (len(obs.bands), *stamps.shape[1:]))
    return _padded(stamps, edge)
