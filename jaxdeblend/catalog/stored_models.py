"""The blends of a store as observed: rendered in a few compiled programs, some sources at a time."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..fitting.ladder import IMAGE_EDGES, SOURCE_COUNTS, rung
from ..instrument.box import Box
from ..instrument.observation import Observation
from ..instrument.psf import AbstractPSF, ImagePSF
from ..io import Exposure, LazyExposure
from ..model.blend import Blend
from ..model.prior import CenterPrior
from ..runtime.host import AnyArray
from ..runtime.programs import Program
from .plan import NO_PARENT
from .records import Outcome, stored_outcomes
from .store import ModelStore, StoredBlend

TOGETHER = 32
"""Sources of a blend that are rendered together: so many images of its window are in memory at a time."""

KEPT_SUMS = 32
"""Parents whose model is remembered, for neighbours that ask for it."""

AnyExposure = Exposure | LazyExposure
"""An exposure in memory, or in its files."""


class StoredModels:
    """The models of a store, as an exposure shows them.

    Parameters
    ----------
    store
        The store.
    exposure
        The exposure that it is of.
    bands
        Names of the bands; None: all of the exposure.

    Attributes
    ----------
    rows
        Rows of the catalog that each blend holds, by the number of the blend.
    boxes
        Window of each blend.
    blends_of
        Numbers of the blends of each parent, the parents in order.
    reasons
        Why blends were not fitted, by the number of each of these.

    Raises
    ------
    ValueError
        If the exposure is not that of the store, or has no such band.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import jaxdeblend as jd
    >>> star = jd.Blend.of([jd.PointSource((8.3, 7.6), [50.0])], frame=(16, 16))
    >>> fit = jd.FitResult(star, loss=np.array([2.5]), n_steps=np.array(1), status=np.array(0))
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.h5"
    >>> with jd.StoreWriter.create(path, jd.StoreHeader(bands=("r",))) as writer:
    ...     writer.append(jd.StoredBlend(7, 3, jd.Box((40, 52), (16, 16)), np.array([12]), fit))
    >>> models = StoredModels(
    ...     jd.ModelStore(path), jd.Exposure(np.zeros((1, 64, 80)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    ... )
    >>> round(float(models.summed(models.store.record(7)).sum())), models.window(3)
    (50, Box(start=(40, 52), shape=(16, 16)))
    """

    def __init__(self, store: ModelStore, exposure: AnyExposure, bands: Sequence[str] | None = None):
        self.store, self.exposure = store, exposure
        self.bands = exposure.bands if bands is None else tuple(bands)
        self.in_store = _numbers(self.bands, store.header.bands)
        self.in_exposure = _numbers(self.bands, exposure.bands)
        outcomes = list(stored_outcomes(store))
        check_windows(outcomes, exposure.box)
        self.rows = {one.id: one.rows for one in outcomes}
        self.boxes = {one.id: one.box for one in outcomes}
        self.reasons = {one.id: one.reason for one in outcomes if one.reason}
        self._parent = {one.id: one.parent for one in outcomes}
        self.blends_of: dict[int, list[int]] = {}
        for one in sorted(outcomes, key=lambda one: (one.parent == NO_PARENT, one.parent, one.id)):
            self.blends_of.setdefault(one.parent, []).append(one.id)
        fitted = [one for one in outcomes if not one.reason]
        self._ids = np.array([one.id for one in fitted], int)
        self._corners = np.array([(*one.box.start, *one.box.stop) for one in fitted], int).reshape(-1, 4)
        self._psf = self._stamps(exposure.psf) if isinstance(exposure.psf, AbstractPSF) else None
        self._model_psf = None if store.header.model_psf is None else ImagePSF(store.header.model_psf[None])
        self.model = functools.lru_cache(maxsize=KEPT_SUMS)(self._model)

    def of_band(self, band: str) -> "StoredModels":
        """The same in one band."""
        return StoredModels(self.store, self.exposure, (band,))

    def find(self, row: int) -> tuple[int, int]:
        """Number of the blend that holds a row of the catalog, and the row's place there.

        Raises
        ------
        ValueError
            If there is none.
        """
        for number, rows in self.rows.items():
            places = np.flatnonzero(rows == row)
            if len(places):
                return number, int(places[0])
        raise ValueError(f"id: got {row}, but {self.store.path} has no such row of the catalog.")

    def parent_of(self, blend: int) -> int:
        """Number of the parent of a blend."""
        return self._parent[blend]

    def fitted(self, box: Box) -> list[int]:
        """Numbers of the blends that were fitted and whose window overlaps with another."""
        y0, x0, y1, x1 = self._corners.T
        meets = (y0 < box.stop[0]) & (y1 > box.start[0]) & (x0 < box.stop[1]) & (x1 > box.start[1])
        return self._ids[meets].tolist()

    def window(self, parent: int) -> Box:
        """Window of a parent, which holds those of all of its blends; empty for rows that have no parent."""
        if parent == NO_PARENT:
            return Box((0, 0), (0, 0))
        return Box.union(self.boxes[blend] for blend in self.blends_of[parent])

    def summed(
        self, record: StoredBlend, sources: Int[np.ndarray, " source"] | None = None
    ) -> Float[np.ndarray, "band y x"]:
        """Model of some sources of a fitted blend, or of all, on its window."""
        found = np.zeros((len(self.bands), *record.box.shape), np.float32)
        for some in _portions(len(record.rows) if sources is None else sources):
            found += self._rendered(record, some, together=True)[0]
        return found

    def separate(
        self, record: StoredBlend
    ) -> Iterator[tuple[Int[np.ndarray, " source"], Float[np.ndarray, "source band y x"]]]:
        """Model of each source of a fitted blend, on its window; numbers of some sources, and their models."""
        for some in _portions(len(record.rows)):
            yield some, self._rendered(record, some, together=False)

    def territory(self, parent: int) -> Bool[np.ndarray, "band y x"]:
        """Pixels of a parent's window where its model is brighter than that of any other parent.

        A pixel that several windows share is thus of one parent alone.
        """
        box, mine = self.window(parent), self.model(parent)
        own = np.ones(mine.shape, bool)
        others = {self._parent[number] for number in self.fitted(box)} - {parent}
        for other in sorted(others):
            both = box.overlap(self.window(other))
            here = (..., *both.within(box))
            there = (..., *both.within(self.window(other)))
            ours, theirs = mine[here], self.model(other)[there]
            own[here] &= (ours > theirs) | ((ours == theirs) & (parent < other))
        return own

    def _model(self, parent: int) -> Float[np.ndarray, "band y x"]:
        """Model of all sources of a parent, on its window."""
        box = self.window(parent)
        found = np.zeros((len(self.bands), *box.shape), np.float32)
        for number in self.blends_of[parent]:
            if number not in self.reasons:
                found[(..., *self.boxes[number].within(box))] += self.summed(self.store.record(number))
        return found

    def _rendered(
        self, record: StoredBlend, sources: Int[np.ndarray, " source"], *, together: bool
    ) -> Float[np.ndarray, "some band y x"]:
        """Models of a few sources, or their sum, through a program for windows at least as large."""
        height, width = record.box.shape
        edge = rung(max(height, width), IMAGE_EDGES)
        count = rung(len(sources), SOURCE_COUNTS)
        blend = _part(record.blend, sources, count, edge)
        if not blend.stacks:
            return np.zeros((1 if together else len(sources), len(self.bands), height, width), np.float32)
        obs = Observation(
            np.zeros((len(self.bands), edge, edge), np.float32),
            np.ones(len(self.bands), np.float32),
            self._psf if self._psf is not None else self._stamps(self.exposure.psf_at(record.box.center)),
            bands=[str(number) for number in range(len(self.bands))],
            model_psf=self._model_psf,
            extent=np.array([height, width], np.int32),
        )
        groups = np.ones((1, count)) if together else np.eye(count)
        rendered = np.asarray(_render(blend, obs, groups.astype(blend.centers.dtype), self.in_store))
        return np.nan_to_num(rendered[: None if together else len(sources), :, :height, :width].astype(np.float32))

    def _stamps(self, psf: AbstractPSF) -> ImagePSF:
        """The PSF of the bands."""
        stamps = np.asarray(psf.stamp(psf.edge))
        return ImagePSF(stamps if len(stamps) == 1 else stamps[self.in_exposure])


def check_windows(outcomes: Iterable[Outcome], box: Box) -> None:
    """Refuse an exposure beyond whose box the windows of blends reach."""
    for one in outcomes:
        if box.overlap(one.box) != one.box:
            raise ValueError(
                f"exposure: got one of shape {box.shape}, but blend {one.id} of the store has the window {one.box}; "
                "give the exposure that the store was made of."
            )


@Program
def _render(
    blend: Blend, obs: Observation, groups: Float[AnyArray, "group source"], bands: Int[AnyArray, " band"]
) -> Float[Array, "group band y x"]:
    """Sum of the sources of each group as observed, in some of the bands of the blend."""
    obs = obs.prepared()
    frames = blend.frames(obs.extent, obs.margin)

    def one(members: Float[Array, " source"]) -> Float[Array, "band y x"]:
        cube = jnp.zeros((len(bands), *frames[0].shape[-2:]), frames[0].dtype)
        flux = jnp.zeros((len(blend.centers), len(bands)), cube.dtype)
        for stack, images in zip(blend.stacks, frames, strict=True):
            spectra, _ = stack.terms()
            share = members @ stack.membership(len(members)).astype(members.dtype)
            light = share[:, None, None] * spectra[:, :, bands]
            light = jnp.where(jnp.isfinite(light), light, 0.0)
            extended = jnp.where(stack.is_point[:, None, None], 0.0, light)
            cube = cube + jnp.einsum("ctb,ctyx->byx", extended, images)
            total = jnp.einsum("ctb,ctyx->cb", light - extended, stack.terms()[1])
            flux = flux + stack.membership(len(flux)).astype(flux.dtype) @ total
        return obs.convolve(cube) + obs.draw_points(jnp.asarray(blend.centers), flux)

    return jax.lax.map(one, jnp.asarray(groups))


def _part(blend: Blend, sources: Int[np.ndarray, " source"], count: int, edge: int) -> Blend:
    """Some sources of a blend, padded to a number of sources and to an edge of the frame."""
    centers = np.asarray(blend.centers)
    number = np.full(len(centers), -1)
    number[sources] = np.arange(len(sources))
    number[~np.isfinite(centers).all(axis=1)] = -1  # dark, and their place would reach the others
    padded = np.zeros((count, 2), centers.dtype)
    padded[: len(sources)] = np.where(np.isfinite(centers[sources]), centers[sources], 0)
    stacks = []
    for stack in blend.stacks:
        source = number[np.asarray(stack.source)]
        kept = np.flatnonzero((source >= 0) & np.asarray(stack.active))
        if len(kept):
            part = dataclasses.replace(stack.take(kept), source=source[kept].astype(np.int32))
            stacks.append(part.padded(rung(len(kept), SOURCE_COUNTS)))
    prior = CenterPrior(padded, np.zeros(count, centers.dtype))
    return Blend(
        centers=padded, center_prior=prior, stacks=tuple(stacks), active=np.ones(count, bool), frame=(edge, edge)
    )


def _portions(sources: int | Int[np.ndarray, " source"]) -> list[Int[np.ndarray, " some"]]:
    """A few sources at a time."""
    numbers = np.arange(sources) if isinstance(sources, int) else sources
    return [numbers[first : first + TOGETHER] for first in range(0, len(numbers), TOGETHER)]


def _numbers(bands: tuple[str, ...], known: tuple[str, ...]) -> Int[np.ndarray, " band"]:
    if missing := [band for band in bands if band not in known]:
        raise ValueError(f"bands: got {missing[0]!r}; give some of {', '.join(known)}.")
    return np.array([known.index(band) for band in bands], np.int32)
