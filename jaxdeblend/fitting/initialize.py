"""From positions to a first model of a blend."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..instrument.noise_units import in_noise_units
from ..instrument.observation import Observation
from ..model.blend import Blend, Stack
from ..model.component import FactorizedComponent
from ..model.constraint import AbstractConstraint, CenterKept, Monotonic, Positive, SparseThreshold
from ..model.morphology import ImageMorphology
from ..model.prior import AbstractPrior, CenterPrior, SymmetricPrior
from ..model.spectrum import FreeSpectrum
from ..ops import prox, stamps
from ..runtime.host import device_array
from ..runtime.programs import Program
from .expansion import expand
from .ladder import default_stamp_edge
from .multiplicative import correct
from .render import render_terms
from .spectra import solve_spectra
from .stars import find_points

COMPACT = 0.5
"""Share of the light of a first model that must be that of a point for the source to be tried as a star."""

BRIGHT = 2000.0
"""S/N from which on every source is tried as a star: a first model counts a tenth of the light as its own error, and
fits the wings of a very bright star rather than its core."""

CORRECTED = 300.0
"""S/N from which on the first models of galaxies are corrected: fainter ones are within the noise."""

SMALLEST_SPLIT = 75
"""Edge from which on the stamps of sources that need less are half as wide. For smaller stamps, one kind of stack takes
a quarter less time to compile, as long to run, and is a little more accurate."""


class Initialization(eqx.Module):
    """How sources begin, and under which constraints and priors they are fitted.

    Defaults were chosen on simulated truth, one at a time, with ``benchmarks/truth.py``.

    Parameters
    ----------
    constraints
        Constraints on every morphology.
    priors
        Priors on every morphology.
    widths
        σ of the Gaussians of the first model, in pixels; the first is the point source of model space.
    sparsity
        L1 penalty on the amplitude of each Gaussian, in units of its 1σ error.
    passes
        How often at most ellipticities and positions of the first model are improved.
    max_components
        1, or 2 to split bright sources into a bulge and a disk with a spectrum each.
    point_below
        Sources of lower S/N are point sources of fixed shape.
    two_above
        Sources of higher S/N get two components, if `max_components` is 2; at most a quarter of the lit sources of a
        blend, 3, 7, 11 … counted as 4, 8, 12 … (and at least one), the brightest.
    split
        Where the two are split, in units of the maximum: disk = min(m, t), bulge = max(m - t, 0).

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> free = jd.Initialization(priors=())          # without the symmetry prior
    >>> free.max_components
    2
    """

    constraints: tuple[AbstractConstraint, ...] = eqx.field(
        default_factory=lambda: (Positive(), Monotonic(), SparseThreshold(0.2), CenterKept())
    )
    priors: tuple[AbstractPrior, ...] = eqx.field(default_factory=lambda: (SymmetricPrior(0.2, 0.5),))
    widths: Float[Array, " width"] = eqx.field(converter=device_array, default=(0.85, 1.7, 3.4, 6.8, 13.6))
    sparsity: Float[Array, ""] = eqx.field(converter=device_array, default=0.5)
    passes: int = eqx.field(static=True, default=10)
    max_components: int = eqx.field(static=True, default=2)
    point_below: Float[Array, ""] = eqx.field(converter=device_array, default=0.0)
    two_above: Float[Array, ""] = eqx.field(converter=device_array, default=300.0)
    split: Float[Array, ""] = eqx.field(converter=device_array, default=0.25)

    def __check_init__(self):
        if self.max_components not in (1, 2):
            raise ValueError(f"max_components: got {self.max_components}; give 1, or 2 for bulge and disk.")


def initialize(
    obs: Observation,
    centers: object,
    *,
    center_error: object = 0.1,
    stamp_edge: int | None = None,
    options: Initialization | None = None,
) -> Blend:
    """Make a first model of all sources of a blend from their positions.

    Shapes begin as multi-Gaussian expansions fitted jointly to all bands (`jaxdeblend.fitting.expansion`), spectra as
    the joint, weighted, non-negative least-squares solution for these expansions, whose fluxes are good to some per
    cent.
    Positions begin where the expansions fit best within their errors; the given ones stay the centre of their prior.

    Parameters
    ----------
    obs
        Observation.
    centers
        Positions (source, 2), (y, x) in pixels, from a detection or a catalog.
    center_error
        1σ error per axis of the positions in pixels, one number or one per source; centres are fitted under a prior
        of this width. 0 keeps them fixed.
    stamp_edge
        Odd edge of the morphologies' stamps; by default chosen from the image. From `SMALLEST_SPLIT` pixels on,
        they are for the components that reach furthest, half as many as there are sources; those of others are half as
        wide.
    options
        Constraints, priors, numbers of components.

    Returns
    -------
    Blend
        Initial blend for `fit`. A source outside the image stays dark.

    Raises
    ------
    ValueError
        If centers do not have the shape (source, 2), or the stamp's edge is even.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> len(jd.initialize(obs, [(4.0, 5.0), (11.0, 9.5)]).sources)
    2
    """
    positions = check_centers(centers)
    error = check_errors(center_error, len(positions))
    edge = default_stamp_edge(obs.shape) if stamp_edge is None else stamp_edge
    if edge % 2 == 0:
        raise ValueError(f"stamp_edge: got {edge}; a stamp needs an odd edge so that its centre is a sample.")
    options = Initialization() if options is None else options
    obs, unit = in_noise_units(obs)
    dtype = obs.images.dtype
    if len(positions) == 0:  # a dark source stands in, and is taken out again: stacks keep their kinds and shapes
        nowhere, exact = device_array(np.zeros((1, 2)), dtype), device_array(np.zeros(1), dtype)
        dark = _initialize(obs, nowhere, exact, device_array(np.zeros(1, bool)), edge, options)
        return jax.tree.map(lambda array: array[:0], dark)
    active = device_array(np.ones(len(positions), bool))
    blend = _initialize(obs, device_array(positions, dtype), device_array(error, dtype), active, edge, options)
    return blend.scaled(unit)


def check_centers(centers: object) -> np.ndarray:
    """Positions as an array (source, 2); an empty list becomes (0, 2)."""
    positions = np.asarray(centers, dtype=float)
    if positions.size == 0:
        return np.zeros((0, 2))
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"centers: got shape {positions.shape}; give (source, 2) with (y, x) of each source.")
    return positions


def check_errors(center_error: object, n_sources: int) -> np.ndarray:
    """Errors of the positions as an array (source,)."""
    error = np.asarray(center_error, dtype=float)
    if error.shape not in ((), (n_sources,)):
        raise ValueError(
            f"center_error: got shape {error.shape} for {n_sources} sources; give one number, or one per source."
        )
    if not (np.isfinite(error) & (error >= 0)).all():
        raise ValueError(f"center_error: got {center_error}; errors must be finite and not negative (0: fixed).")
    return np.broadcast_to(error, n_sources)


def initialize_arrays(
    obs: Observation,
    positions: Float[Array, "source 2"],
    error: Float[Array, " source"],
    active: Bool[Array, " source"],
    edge: int,
    options: Initialization,
) -> Blend:
    """The initialization as a pure function of arrays, for `jax.vmap` over blends.

    Parameters
    ----------
    obs
        Observation.
    positions
        Detected positions; one that is not finite or outside the image makes a dark source.
    error
        Error of the positions.
    active
        False for padding.
    edge
        Odd edge of the stamps.
    options
        Constraints, priors, numbers of components.
    """
    first = first_models(obs, positions, error, active, edge, options)
    return blend_of(refined(first, obs), obs, options)


class FirstModels(eqx.Module):
    """Sources while they are initialized.

    Attributes
    ----------
    shapes
        Stamp of each in model space, in flux units of the mean band.
    spectra
        Flux in each band.
    center
        Position (y, x).
    prior
        Detected positions, and their errors.
    active, lit
        False for padding; false for sources without light, too.
    compact
        Sources that may be points.
    is_point
        Sources that are points.
    significance
        S/N of each source as a point.
    """

    shapes: Float[Array, "source s s"]
    spectra: Float[Array, "source band"]
    center: Float[Array, "source 2"]
    prior: CenterPrior
    active: Bool[Array, " source"]
    lit: Bool[Array, " source"]
    compact: Bool[Array, " source"]
    is_point: Bool[Array, " source"]
    significance: Float[Array, " source"]

    @property
    def bright(self) -> Bool[Array, " source"]:
        """Sources whose shapes are worth a correction unless they are points."""
        return self.lit & ~self.is_point & (self.significance > CORRECTED)

    @property
    def can_be_refined(self) -> Bool[Array, ""]:
        """Whether `refined` changes anything."""
        return jnp.any(self.compact | self.bright)


def first_models(
    obs: Observation,
    positions: Float[Array, "source 2"],
    error: Float[Array, " source"],
    active: Bool[Array, " source"],
    edge: int,
    options: Initialization,
) -> FirstModels:
    """All sources as multi-Gaussian expansions; parameters as for `initialize_arrays`."""
    obs = obs.prepared()
    inside = obs.contains(positions)
    centers = jnp.where(inside[:, None], positions, 0.0)
    lit = active & inside
    shapes, spectra, improved, point_share = expand(
        obs, centers, error, lit, edge, options.widths, sparsity=options.sparsity, passes=options.passes
    )
    centers = jnp.where((lit & (error > 0))[:, None], improved, centers)
    significance = _significance(obs, centers, lit)
    return FirstModels(
        shapes=shapes,
        spectra=spectra,
        center=centers,
        prior=CenterPrior(positions, jnp.where(inside, error, 0.0)),
        active=active,
        lit=lit,
        compact=lit & ((point_share > COMPACT) | (significance > BRIGHT)),
        is_point=jnp.zeros_like(lit),
        significance=significance,
    )


def refined(first: FirstModels, obs: Observation) -> FirstModels:
    """First models with the points among them found, and the shapes of bright galaxies corrected."""
    obs = obs.prepared()
    positions, errors = jnp.asarray(first.prior.mean), jnp.asarray(first.prior.sigma)
    detected = jnp.where(obs.contains(positions)[:, None], positions, 0.0)
    light = jnp.where(first.lit[:, None], first.spectra, 0.0)
    points = find_points(obs, first.shapes, light, first.center, detected, errors, first.compact, first.significance)
    found = eqx.tree_at(lambda models: (models.is_point, models.center), first, (points.is_point, points.center))
    point_flux = jnp.where(points.is_point[:, None], points.flux, 0.0)
    light = jnp.where(points.is_point[:, None], 0.0, light)
    others = obs.draw_points(points.center, point_flux)
    shapes, light = correct(obs, first.shapes, light, points.center, found.bright, others)
    spectra = jnp.where(first.lit[:, None], point_flux + light, first.spectra)
    return eqx.tree_at(lambda models: (models.shapes, models.spectra), found, (shapes, spectra))


def blend_of(models: FirstModels, obs: Observation, options: Initialization) -> Blend:
    """The blend of these sources, for `fit`."""
    sources = Blend(centers=models.center, center_prior=models.prior, stacks=(), active=models.active, frame=obs.shape)
    return with_shapes(
        sources,
        obs,
        models.shapes,
        models.is_point,
        options,
        spectra=models.spectra,
        significance=models.significance,
    )


def with_shapes(
    sources: Blend,
    obs: Observation,
    shapes: Float[Array, "source s s"],
    points: Bool[Array, " source"],
    options: Initialization,
    *,
    spectra: Float[Array, "source band"] | None = None,
    significance: Float[Array, " source"] | None = None,
) -> Blend:
    """A blend of sources of these shapes.

    Parameters
    ----------
    sources
        Blend without components: where the sources are.
    obs
        Observation.
    shapes
        What each source looks like in model space on a stamp about its centre, in flux units of the mean band.
    points
        Sources that are point sources, and remain so, whatever their shape.
    options
        Constraints, priors, numbers of components.
    spectra
        Flux of each source in each band; by default the spectra that go best with the shapes are solved for.
    significance
        S/N of each source as a point, if it is known.

    Returns
    -------
    Blend
        Initial blend for `fit`.
    """
    obs = obs.prepared()
    lit = jnp.asarray(sources.active) & obs.contains(jnp.asarray(sources.center_prior.mean))
    shapes, peak = jax.vmap(prox.normalized)(shapes)
    if significance is None:
        significance = _significance(obs, jnp.asarray(sources.centers), lit)
    point = points | (significance < options.point_below)
    star = prox.normalized(obs.model_psf.stamp(shapes.shape[-1])[0])[0]
    shapes = jnp.where(point[:, None, None], star[None], shapes)
    amplitude = jnp.ones((len(peak), len(obs.bands)), peak.dtype)
    if spectra is not None:
        total = shapes.sum(axis=(-2, -1))[:, None]
        amplitude = jnp.where(total > 0, spectra / jnp.where(total > 0, total, 1.0), 0.0)
    images, source, lit, height = _components(shapes, lit, jnp.where(point, 0.0, significance), options)
    step = jnp.where(point[source], 0.0, 0.01)
    stacks = _stacks(images, amplitude[source] * height[:, None], source, lit, step, point[source], peak, options)
    blend = dataclasses.replace(sources, stacks=stacks)
    return blend if spectra is not None else solve_spectra(blend, obs, render_terms(blend, obs))


_initialize = Program(initialize_arrays)


def _components(
    shapes: Float[Array, "source s s"],
    lit: Bool[Array, " source"],
    significance: Float[Array, " source"],
    options: Initialization,
) -> tuple[Float[Array, "component s s"], Array, Array, Float[Array, " component"]]:
    """Stamps, source numbers, activity and heights of the components: one a source, or bulges behind the disks.

    How many sources may have two is counted from those that are lit, so that dark ones change nothing; the slots are
    for all.
    """
    number = jnp.arange(shapes.shape[0])
    if options.max_components == 1:
        return shapes, number, lit, jnp.ones(len(shapes), shapes.dtype)
    slots, allowed = max(1, (len(lit) + 1) // 4), jnp.maximum(1, (jnp.sum(lit) + 1) // 4)
    brightest = jnp.argsort(-significance)[:slots]
    bright = (significance[brightest] > options.two_above) & (jnp.arange(slots) < allowed)
    two = jnp.zeros_like(lit).at[brightest].set(bright)
    disk = jnp.where(two[:, None, None], jnp.minimum(shapes, options.split) / options.split, shapes)
    bulge = jnp.maximum(shapes[brightest] - options.split, 0.0) / (1 - options.split)
    lit = jnp.concatenate([lit, (lit & two)[brightest]])
    height = jnp.concatenate([jnp.where(two, options.split, 1.0), jnp.full(slots, 1 - options.split, shapes.dtype)])
    return jnp.concatenate([disk, bulge]), jnp.concatenate([number, brightest]), lit, height


def _stacks(
    images: Float[Array, "component s s"],
    spectra: Float[Array, "component band"],
    source: Int[Array, " component"],
    lit: Bool[Array, " component"],
    step: Float[Array, " component"],
    point: Bool[Array, " component"],
    peak: Float[Array, " source"],
    options: Initialization,
) -> tuple[Stack, ...]:
    """The components: those that reach furthest in large stamps, the others in small.

    Large stamps go to half as many components as sources are lit, and to dark components where slots are left.
    """

    def stack(which: Array | slice, images: Array) -> Stack:
        component = jax.vmap(
            lambda image, spectrum, step, point: FactorizedComponent(
                FreeSpectrum(spectrum), ImageMorphology(image, options.constraints, options.priors, step, point)
            )
        )(images, spectra[which], step[which], point[which])
        return Stack(component, source[which], lit[which])

    n_sources, edge = len(peak), images.shape[-1]
    slots, allowed = max(2, (n_sources + 1) // 2), jnp.maximum(2, (jnp.sum(lit[:n_sources]) + 1) // 2)
    if edge < SMALLEST_SPLIT or slots >= len(images):
        return (stack(slice(None), images),)
    small = edge // 2 | 1
    near = slice((edge - small) // 2, (edge + small) // 2)
    beyond = images.at[:, near, near].set(0.0)
    missed = jnp.where(lit, peak[source] ** 2 * jnp.sum(beyond**2, axis=(-2, -1)), -1.0)
    order = jnp.argsort(-missed)
    group = jnp.where(jnp.arange(len(order)) < allowed, 0, jnp.where(lit[order], 2, 1))
    order = order[jnp.argsort(group)]
    large, rest = order[:slots], order[slots:]
    return stack(large, images[large]), stack(rest, images[rest][:, near, near])


def _significance(
    obs: Observation, centers: Float[Array, "source 2"], lit: Bool[Array, " source"]
) -> Float[Array, " source"]:
    """S/N of a point source at each centre, √(Σ_b (P_b · w I)² / (P_b² · w)) over the bands."""
    psf = jnp.broadcast_to(obs.psf.stamp(obs.psf.edge), (len(obs.bands), obs.psf.edge, obs.psf.edge))

    def one(center: Array) -> Array:
        rows, columns = (stamps.placement(center[k], n, obs.psf.edge) for k, n in enumerate(obs.shape))
        model = jnp.einsum("ys,bst,xt->byx", rows, psf, columns)
        signal = jnp.sum(model * obs.weights * obs.images, axis=(-2, -1))
        noise = jnp.sum(model**2 * obs.weights, axis=(-2, -1))
        return jnp.sqrt(
            jnp.sum(jnp.where(noise > 0, jnp.maximum(signal, 0.0) ** 2 / jnp.where(noise > 0, noise, 1.0), 0.0))
        )

    return jnp.where(lit, jax.vmap(one)(centers), 0.0)
