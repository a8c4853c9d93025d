"""Blends: sources that are fitted together, as rectangular stacks of components.

Inside, components of one kind and stamp size lie in one stack, each with the number of its source; padding is a
flag. A blend is thus a fixed number of arrays whatever its sources are, and a batch of blends is the same arrays
with one more axis. Outside, `Blend.sources` gives them back as a list.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, UInt32

from ..ops import stamps
from ..runtime.host import AnyArray, device_array
from .component import AbstractComponent, FactorizedComponent, scaled
from .morphology import ImageMorphology, PointMorphology
from .parameter import parameters
from .prior import CenterPrior
from .source import Source

CENTER_STEP = 0.02
"""Step of the optimizer for centres, in pixels."""

BRIGHT = 1e4
"""Flux in units of a pixel's noise from which on steps are smaller, as everything about the source is known better."""


class Stack(eqx.Module):
    """Components of one kind, stacked along a leading axis.

    Attributes
    ----------
    component
        The components; each array has a leading axis.
    source
        Number of the source that each belongs to.
    active
        False for padding.
    """

    component: AbstractComponent
    source: Int[AnyArray, " component"]
    active: Bool[AnyArray, " component"]

    @classmethod
    def of(cls, components: Sequence[AbstractComponent], source: Sequence[int]) -> "Stack":
        """Stack components of one kind; `source` is the index of the source that each belongs to."""
        component = jax.tree.map(_stacked, *components)
        return cls(component, device_array(list(source)), device_array(np.ones(len(components), bool)))

    @property
    def kind(self) -> Hashable:
        """What must agree for components of two stacks to lie in one."""
        leaves, tree = jax.tree.flatten(self.component)
        return tree, tuple((jnp.shape(leaf)[1:], jnp.result_type(leaf)) for leaf in leaves)

    def take(self, index: Int[np.ndarray, " taken"]) -> "Stack":
        """Some of the components, on the host."""
        return jax.tree.map(lambda array: np.asarray(array)[index], self)

    def padded(self, n_components: int) -> "Stack":
        """The stack with padding after its components, which repeats them, on the host."""
        n_own = len(self.source)
        stack = self.take(np.resize(np.arange(n_own), n_components))
        return dataclasses.replace(stack, active=stack.active & (np.arange(n_components) < n_own))

    def terms(self) -> tuple[Float[Array, "component term band"], Float[Array, "component term s s"]]:
        """Terms of each component; those of padding are dark."""
        spectra, images = jax.vmap(lambda component: component.terms())(self.component)
        return jnp.where(self.active[:, None, None], spectra, 0.0), jnp.asarray(images)

    def fluxes(self) -> Float[Array, "component band"]:
        """Flux of each component in each band."""
        spectra, images = self.terms()
        return jnp.einsum("ctb,ct->cb", spectra, images.sum(axis=(-2, -1)))

    @property
    def is_point(self) -> Bool[Array, " component"]:
        """True for points, which the PSF of each band draws; see `jaxdeblend.instrument.point_spread`."""
        if isinstance(self.component, FactorizedComponent):
            morphology = self.component.morphology
            if isinstance(morphology, PointMorphology):
                return jnp.ones(len(self.source), dtype=bool)
            if isinstance(morphology, ImageMorphology):
                return jnp.asarray(morphology.point)
        return jnp.zeros(len(self.source), dtype=bool)

    def membership(self, n_sources: int) -> Float[Array, "source component"]:
        """1 where a component belongs to a source, and is not padding."""
        member = self.source[None, :] == jnp.arange(n_sources)[:, None]
        return jnp.where(member & self.active[None, :], 1.0, 0.0)

    def project(self, rms: Float[Array, " band"]) -> "Stack":
        """Every component projected."""
        component = jax.vmap(lambda part: part.project(rms))(self.component)
        return dataclasses.replace(self, component=component)

    def log_prior(self, rms: Float[Array, " band"]) -> Float[Array, ""]:
        """Sum over the active components."""
        values = jax.vmap(lambda part: part.log_prior(rms))(self.component)
        return jnp.sum(jnp.where(self.active, values, 0.0))

    def step_sizes(self, rms: Float[Array, " band"], factor: Float[Array, " component"]) -> "Stack":
        """Step sizes of every component, times a factor of each."""

        def steps(part: AbstractComponent, factor: Array) -> AbstractComponent:
            return jax.tree.map(lambda step: step * factor, part.step_sizes(rms))

        return parameters(self, component=jax.vmap(steps)(self.component, factor))


class FitRecord(eqx.Module):
    """What a blend remembers of the fit that it came from.

    Attributes
    ----------
    status
        How the fit ended, a value of `jaxdeblend.RESULTS`.
    observation
        Checksum of the observation that it was fitted to, None if unknown.
    flags
        What was found about each source before the fit, bits of `jaxdeblend.Flag`; None if nothing was looked for.
    """

    status: Int[AnyArray, "*batch"]
    observation: UInt32[AnyArray, ""] | None = None
    flags: Int[AnyArray, " source"] | None = None

    def of_sources(self, places: Int[np.ndarray, " place"]) -> "FitRecord":
        """The record of some of the sources."""
        flags = None if self.flags is None else np.asarray(self.flags)[places]
        return FitRecord(self.status, self.observation, flags)


class Blend(eqx.Module):
    """Sources that overlap, and are fitted together.

    Parameters
    ----------
    centers
        Positions (source, 2) of the sources, (y, x) in pixels.
    center_prior
        Their detected positions and errors.
    stacks
        Components, one stack for each kind and stamp size.
    active
        False for padding.
    frame
        Shape (y, x) of the observation.
    record
        How it was fitted, and to which observation; None for a blend that did not come from a fit.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> star = jd.PointSource((5, 6), jnp.array([1.0, 2.0]))
    >>> blend = jd.Blend.of([star, star], frame=(16, 16))
    >>> len(blend.sources), float(blend.sources[1].flux[1])
    (2, 2.0)
    """

    _: dataclasses.KW_ONLY
    centers: Float[AnyArray, "source 2"]
    center_prior: CenterPrior
    stacks: tuple[Stack, ...]
    active: Bool[AnyArray, " source"]
    frame: tuple[int, int] = eqx.field(static=True)
    record: FitRecord | None = None

    @classmethod
    def of(cls, sources: list[Source] | tuple[Source, ...], *, frame: tuple[int, int]) -> "Blend":
        """Stack a list of sources.

        Parameters
        ----------
        sources
            The sources; any mixture of kinds.
        frame
            Shape (y, x) of the observation.

        Returns
        -------
        Blend
            Blend whose `sources` are the ones given, in order.
        """
        groups: dict[object, list[tuple[int, AbstractComponent]]] = {}
        for number, source in enumerate(sources):
            for component in source.components:
                groups.setdefault(_kind(component), []).append((number, component))
        stacks = tuple(
            Stack.of([component for _, component in members], [index for index, _ in members])
            for members in groups.values()
        )
        centers = _stacked(*[source.center for source in sources]) if sources else jnp.zeros((0, 2))
        errors = _stacked(*[source.center_error for source in sources]) if sources else jnp.zeros(0)
        return cls(
            centers=centers,
            center_prior=CenterPrior(centers, errors),
            stacks=stacks,
            active=device_array(np.ones(len(sources), bool)),
            frame=frame,
        )

    @classmethod
    def join(cls, blends: Iterable["Blend"]) -> "Blend":
        """The sources of blends of one frame, one blend after the other. Components of one kind share a stack.

        Examples
        --------
        >>> import jax.numpy as jnp
        >>> import jaxdeblend as jd
        >>> star = jd.Blend.of([jd.PointSource((5, 6), jnp.ones(2))], frame=(16, 16))
        >>> both = jd.Blend.join([star, star])
        >>> len(both.sources), len(both.stacks)
        (2, 1)
        """
        parts = list(blends)
        stacks: dict[Hashable, list[Stack]] = {}
        n_before = 0
        for part in parts:
            for stack in part.stacks:
                source = stack.source + stack.source.dtype.type(n_before)
                stacks.setdefault(stack.kind, []).append(dataclasses.replace(stack, source=source))
            n_before += len(part.centers)
        return cls(
            centers=_joined(*[part.centers for part in parts]),
            center_prior=jax.tree.map(_joined, *[part.center_prior for part in parts]),
            stacks=tuple(jax.tree.map(_joined, *members) for members in stacks.values()),
            active=_joined(*[part.active for part in parts]),
            frame=parts[0].frame,
        )

    def take(self, index: Int[np.ndarray, " taken"]) -> "Blend":
        """Some of the sources with all of their components, in the order wanted; on the host.

        Parameters
        ----------
        index
            Indices of the sources wanted, each once.

        Examples
        --------
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import jaxdeblend as jd
        >>> blend = jd.Blend.of([jd.PointSource((y, 6), jnp.ones(2)) for y in (3, 5, 7)], frame=(16, 16))
        >>> blend.take(np.array([2, 0])).centers[:, 0].tolist()
        [7.0, 3.0]
        """
        new_index = np.full(len(self.centers), -1)
        new_index[index] = np.arange(len(index))
        stacks = []
        for stack in self.stacks:
            stack = stack.take(np.flatnonzero(new_index[np.asarray(stack.source)] >= 0))
            source = new_index[stack.source].astype(stack.source.dtype)
            stacks.append(dataclasses.replace(stack, source=source))
        return Blend(
            centers=np.asarray(self.centers)[index],
            center_prior=jax.tree.map(lambda array: np.asarray(array)[index], self.center_prior),
            stacks=tuple(stacks),
            active=np.asarray(self.active)[index],
            frame=self.frame,
            record=None if self.record is None else self.record.of_sources(index),
        )

    def trimmed(self) -> "Blend":
        """The blend without inactive components, but for sources that have no others; on the host."""
        stacks = [stack.take(np.arange(len(stack.source))) for stack in self.stacks]
        with_light = np.concatenate([np.zeros(0, int), *(stack.source[stack.active] for stack in stacks)])
        kept = [stack.take(np.flatnonzero(stack.active | ~np.isin(stack.source, with_light))) for stack in stacks]
        return dataclasses.replace(self, stacks=tuple(kept))

    def padded(
        self, n_sources: int, n_components: Callable[[int], int], *, frame: tuple[int, int] | None = None
    ) -> "Blend":
        """The blend with inactive sources and components after its own, on the host.

        Parameters
        ----------
        n_sources
            Number of sources with the padding.
        n_components
            Number of components of a stack with the padding, as a function of that without.
        frame
            Frame with the padding; by default as it is.
        """
        n_more = n_sources - len(self.centers)

        def more(array: AnyArray) -> np.ndarray:
            return np.concatenate([np.asarray(array), np.zeros((n_more, *array.shape[1:]), array.dtype)])

        merged = [stack for stack in Blend.join([self]).stacks if len(stack.source)]
        merged.sort(key=lambda stack: str(stack.kind))
        return Blend(
            centers=more(self.centers),
            center_prior=jax.tree.map(more, self.center_prior),
            stacks=tuple(stack.padded(n_components(len(stack.source))) for stack in merged),
            active=more(self.active),
            frame=self.frame if frame is None else frame,
        )

    def moved(self, shift: Float[np.ndarray, "2"], *, frame: tuple[int, int]) -> "Blend":
        """The sources at other positions (y, x) of another frame, which nothing was fitted to."""
        prior = dataclasses.replace(self.center_prior, mean=self.center_prior.mean + shift[None])
        return dataclasses.replace(
            self, centers=self.centers + shift[None], center_prior=prior, frame=frame, record=None
        )

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources, without padding."""
        active = np.asarray(self.active)
        return tuple(self._source(int(number)) for number in np.flatnonzero(active))

    def _source(self, number: int) -> Source:
        own = [(stack, k) for stack in self.stacks for k in np.flatnonzero(np.asarray(stack.source) == number)]
        lit = [(stack, k) for stack, k in own if np.asarray(stack.active)[k]]
        # a source outside the image has dark components only; it is a source nevertheless
        components = [
            jax.tree.map(lambda leaf, k=int(k): _entry(leaf, k), stack.component) for stack, k in lit or own[:1]
        ]
        return Source(
            _entry(self.centers, number),
            tuple(components),
            center_error=_entry(self.center_prior.sigma, number),
            frame=self.frame,
        )

    def cube(
        self, extent: Int[AnyArray, "2"] | None = None, margin: int = 0, *, points: bool = True
    ) -> Float[Array, "band y x"]:
        """All sources in model space, before the PSF.

        Parameters
        ----------
        extent
            Number of rows and columns that are real; the model is zero beyond. None: all.
        margin
            Pixels by which the cube reaches beyond the (real) frame on each side.
        points
            Whether points are part of it; they are interpolated here. `point_fluxes` gives what else to draw.
        """
        shape = (1, *(n + 2 * margin for n in self.frame))  # without sources nobody knows the bands
        cube = jnp.zeros(shape, self.centers.dtype)
        for stack, frames in zip(self.stacks, self._frames(margin), strict=True):
            spectra, _ = stack.terms()
            if not points:
                spectra = jnp.where(stack.is_point[:, None, None], 0.0, spectra)
            light = spectra.reshape(-1, spectra.shape[-1]).T @ frames.reshape(-1, frames.shape[-2] * frames.shape[-1])
            cube = cube + light.reshape(-1, *shape[1:])
        return jnp.where(self._real(extent, margin), cube, 0.0)

    @property
    def has_points(self) -> Bool[Array, ""]:
        """Whether any component is a point."""
        found = [jnp.any(stack.is_point & stack.active) for stack in self.stacks]
        return jnp.any(jnp.stack(found)) if found else jnp.zeros((), bool)

    def point_fluxes(self, n_bands: int) -> Float[Array, "source band"]:
        """Flux of the points of each source in each band."""
        return self._fluxes(n_bands, lambda stack: jnp.where(stack.is_point[:, None], stack.fluxes(), 0.0))

    def _fluxes(self, n_bands: int, of: Callable[[Stack], Array]) -> Float[Array, "source band"]:
        """Sum over the components of each source."""
        fluxes = jnp.zeros((len(self.centers), n_bands), self.centers.dtype)
        for stack in self.stacks:
            fluxes = fluxes + stack.membership(len(fluxes)) @ of(stack)
        return fluxes

    def frames(self, extent: Int[AnyArray, "2"] | None = None, margin: int = 0) -> tuple[Float[Array, "_ _ y x"], ...]:
        """The stamp of every term placed into the frame, one array for each stack; parameters as in `cube`."""
        real = self._real(extent, margin)
        return tuple(jnp.where(real, frames, 0.0) for frames in self._frames(margin))

    def _frames(self, margin: int) -> tuple[Float[Array, "_ _ y x"], ...]:
        """Stamps of every term placed into the frame, one array for each stack."""
        if not self.stacks:
            return ()
        images = [stack.terms()[1] for stack in self.stacks]
        # The matrices of all stacks and of both axes are made together, for the largest: one operation is compiled
        # where there were four. A smaller stamp takes the columns in the middle, a shorter axis the first rows.
        shape = [n + 2 * margin for n in self.frame]
        edge = max(image.shape[-1] for image in images)
        source = jnp.concatenate([jnp.asarray(stack.source) for stack in self.stacks])
        centers = jnp.asarray(self.centers) + margin
        taps = jax.vmap(jax.vmap(stamps.taps))(centers)
        of_component = jax.tree.map(lambda array: array[source], (centers, taps))
        matrix = functools.partial(stamps.placement_of_taps, frame_edge=max(shape), stamp_edge=edge)
        matrices = jax.vmap(jax.vmap(matrix))(*of_component)
        place = jax.vmap(stamps.place, in_axes=(0, None, None))  # the terms of one component
        frames = []
        first = 0
        for image in images:
            size = image.shape[-1]
            skipped = (edge - size) // 2
            own = matrices[first : first + len(image), :, :, skipped : skipped + size]
            frames.append(jax.vmap(place)(image, own[:, 0, : shape[0]], own[:, 1, : shape[1]]))
            first += len(image)
        return tuple(frames)

    def _real(self, extent: Int[AnyArray, "2"] | None, margin: int) -> Bool[Array, "y x"]:
        """Pixels that are not padding."""
        height, width = jnp.asarray(self.frame if extent is None else extent)
        y, x = (jnp.arange(n + 2 * margin, dtype=height.dtype) - 2 * margin for n in self.frame)
        return (y < height)[:, None] & (x < width)[None, :]

    def scaled(self, factor: float) -> "Blend":
        """The blend in other units: all fluxes times a number."""
        if factor == 1.0:
            return self
        number = jnp.asarray(factor, self.centers.dtype)
        components = tuple(jax.vmap(lambda part: scaled(part, number))(stack.component) for stack in self.stacks)
        return eqx.tree_at(lambda blend: [stack.component for stack in blend.stacks], self, list(components))

    def project(self, rms: Float[Array, " band"]) -> "Blend":
        """Every component projected onto its constraints."""
        stacks = tuple(stack.project(rms) for stack in self.stacks)
        return eqx.tree_at(lambda blend: blend.stacks, self, stacks)

    def log_prior(self, rms: Float[Array, " band"]) -> Float[Array, ""]:
        """Log-probability of shapes and centres."""
        shapes = sum((stack.log_prior(rms) for stack in self.stacks), start=jnp.zeros(()))
        free = self.active & (self.center_prior.sigma > 0)
        # a detected position that is not finite belongs to a dark source; it must not reach the gradient
        detected = jnp.where(free[:, None], self.center_prior.mean, 0.0)
        prior = CenterPrior(detected, jnp.where(free, self.center_prior.sigma, 1.0))
        return shapes + jnp.sum(jnp.where(free, prior.log_prob(self.centers), 0.0))

    def step_sizes(self, rms: Float[Array, " band"], misfit: Float[Array, " band"] | None = None) -> "Blend":
        """Step of the optimizer for each fitted array, None for what is not fitted.

        Parameters
        ----------
        rms
            Background noise of each band; 0: no data.
        misfit
            Root mean square of what the blend leaves of the data, at least the noise; by default the noise. Bright
            sources take smaller steps where it is small: near the data, they are known to a fraction of the usual step.
        """
        misfit = rms if misfit is None else misfit
        free = self.active & (self.center_prior.sigma > 0)
        brightness = jnp.max(self._fluxes(len(rms), Stack.fluxes) / jnp.where(rms > 0, misfit, jnp.inf)[None], axis=1)
        finer = BRIGHT / jnp.maximum(brightness, BRIGHT)
        center_step = jnp.where(free, CENTER_STEP * finer, 0.0)[:, None]
        stacks = tuple(stack.step_sizes(rms, finer[stack.source]) for stack in self.stacks)
        return parameters(self, centers=center_step, stacks=stacks)


def _stacked(*values: AnyArray) -> Array:
    """Arrays along a new first axis. Nothing is compiled for numbers that are known."""
    if any(isinstance(value, Tracer) for value in values):
        return jnp.stack(values)
    return device_array(np.stack([np.asarray(value) for value in values]))


def _joined(*arrays: AnyArray) -> AnyArray:
    """Arrays one after the other, on the host if all of them are."""
    if len(arrays) == 1:
        return arrays[0]
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.concatenate(arrays)
    return jnp.concatenate([jnp.asarray(array) for array in arrays])


def _entry(values: AnyArray, index: int) -> Array:
    """One entry of an array. Nothing is compiled for numbers that are known."""
    if isinstance(values, Tracer):
        return values[index]
    return device_array(np.asarray(values)[index])


def _kind(component: AbstractComponent) -> object:
    """What must agree for components to lie in one stack: the tree and the shapes of its arrays."""
    leaves, tree = jax.tree.flatten(component)
    return tree, tuple((jnp.shape(leaf), jnp.asarray(leaf).dtype) for leaf in leaves)
