"""The stages of deblending one blend, each a compiled program of its own.

They compile side by side, and are kept one by one: another prior is another fit, and nothing else. Bright blends alone
need the programs that refine first models.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..fitting.extend import extend_arrays
from ..fitting.initialize import (
    FirstModels,
    Initialization,
    blend_of,
    first_models,
    initialize_arrays,
    refined,
)
from ..fitting.loop import FitResult, Problem, fit_and_terms
from ..fitting.optimizer import ProximalAdam
from ..fitting.render import Terms
from ..instrument.kernel import DifferenceKernel
from ..instrument.observation import Observation
from ..instrument.psf import ImagePSF
from ..measurement.photometry import Measurements, measure_arrays
from ..model.blend import Blend
from ..model.component import FactorizedComponent
from ..model.constraint import AbstractConstraint
from ..model.morphology import ImageMorphology
from ..model.prior import AbstractPrior
from ..runtime.cache import keep_programs
from ..runtime.host import AnyArray, is_interactive, usable_cores
from ..runtime.programs import Compiled, Program

logger = logging.getLogger(__name__)

Packed = dict[str, PyTree]
"""One blend as packed by `jaxdeblend.batch.plan.pack`."""

Rules = tuple[tuple[AbstractConstraint, ...], tuple[AbstractPrior, ...]]
"""Constraints and priors of morphologies."""

Output = tuple[FitResult, Measurements, Float[AnyArray, "*lane source band y x"]]


class Settings(eqx.Module):
    """How every blend is deblended.

    Attributes
    ----------
    options
        Constraints, priors, numbers of components.
    optimizer
        Settings of the optimizer.
    stamp_edge
        Edge of the stamps in pixels.
    """

    options: Initialization
    optimizer: ProximalAdam
    stamp_edge: int = eqx.field(static=True)

    @functools.cached_property
    def plain_options(self) -> Initialization:
        """Options without constraints and priors, which nothing but the fit depends on."""
        return eqx.tree_at(lambda options: (options.constraints, options.priors), self.options, ((), ()))

    def start(self, blend: Packed) -> Problem:
        """The first model of a blend, ready to be fitted."""
        obs = observation_of(blend)
        sources = blend["centers"], blend["errors"], blend["active"], self.stamp_edge, self.options
        if "start" in blend:
            initial = extend_arrays(blend["start"], obs, *sources)
        else:
            initial = initialize_arrays(obs, *sources)
        return Problem(initial, obs, self.optimizer)


# ---------------------------------------------------------------------------------------------------------- programs


@functools.partial(Program, one_core=True)
def prepare_observation(pixels: Packed) -> Observation:
    """The observation with its kernels."""
    return observation_of(pixels)


@functools.partial(Program, one_core=True)
def expand_sources(
    obs: Observation, sources: Packed, edge: int, options: Initialization
) -> tuple[FirstModels, Bool[Array, ""]]:
    """First models of all sources, and whether `refine_models` would change them."""
    models = first_models(obs, sources["centers"], sources["errors"], sources["active"], edge, options)
    return models, models.can_be_refined


@functools.partial(Program, one_core=True)
def refine_models(models: FirstModels, obs: Observation) -> FirstModels:
    """First models with points found, and bright galaxies corrected."""
    return refined(models, obs)


@functools.partial(Program, one_core=True)
def make_blend(models: FirstModels, obs: Observation, options: Initialization) -> Blend:
    """The blend of these sources."""
    return blend_of(models, obs, options)


@functools.partial(Program, one_core=True)
def extend_blend(start: Blend, obs: Observation, sources: Packed, edge: int, options: Initialization) -> Blend:
    """A fitted blend, and the sources that join it."""
    return extend_arrays(start, obs, sources["centers"], sources["errors"], sources["active"], edge, options)


@functools.partial(Program, one_core=True)
def fit_blend(
    blend: Blend, obs: Observation, rules: Rules | None, optimizer: ProximalAdam
) -> tuple[FitResult, Blend, Terms]:
    """The fit under other rules than those of the blend, if any; its blend without rules; and the terms of that."""
    initial = blend if rules is None else _under(blend, rules)
    fit, terms = fit_and_terms(initial, obs, optimizer)
    return fit, _under(fit.blend, ((), ())), terms


@functools.partial(Program, one_core=True)
def measure_blend(
    blend: Blend, obs: Observation, status: Int[AnyArray, ""], terms: Terms
) -> tuple[Measurements, Float[Array, "source band y x"]]:
    """Measurements, and each source as observed."""
    return measure_arrays(blend, obs, status, terms)


# --------------------------------------------------------------------------------------------- one after the other


def deblend_one(blend: Packed, settings: Settings) -> Output:
    """Initialize, fit and measure one packed blend."""
    return _in_sequence(blend, settings, lambda program, *args: program(*args))


def compile_side_by_side(blend: Packed, settings: Settings) -> None:
    """Compile the programs that `deblend_one` needs for such a blend at the same time, but for `refine_models`.

    They are traced one after the other; each is compiled by another thread meanwhile. If the first of these for its
    sources is there already, nothing is done: others that are missing, as the fit for another prior, are compiled when
    they are called.
    """
    pixels, sources = _parts(blend)
    if prepare_observation.has(pixels) and "start" not in blend:
        obs = prepare_observation.prepared(pixels).result
        if expand_sources.has(obs, sources, settings.stamp_edge, settings.plain_options):
            return
    with ThreadPoolExecutor(usable_cores()) as pool:
        _in_sequence(blend, settings, lambda program, *args: _compiled_by(pool, program.prepared(*args)))


def _compiled_by(pool: ThreadPoolExecutor, compiled: Compiled) -> Any:
    """Let a thread of the pool compile a program; the shapes of its result."""
    if compiled.is_new and is_interactive():
        _say_that_it_compiles()
    pool.submit(compiled.compile)
    return compiled.result


def _in_sequence(blend: Packed, settings: Settings, call: Callable[..., Any]) -> Any:
    """All stages of a blend, each by a function of the program and its arguments; an `Output`, or its shapes."""
    pixels, sources = _parts(blend)
    options = settings.options
    obs = call(prepare_observation, pixels)
    if "start" in blend:
        initial = call(extend_blend, blend["start"], obs, sources, settings.stamp_edge, options)
        rules = None  # each source has its own
    else:
        plain = settings.plain_options
        models, can_be_refined = call(expand_sources, obs, sources, settings.stamp_edge, plain)
        # the value is not known while programs are only compiled
        if not isinstance(can_be_refined, jax.ShapeDtypeStruct) and np.asarray(can_be_refined):
            models = call(refine_models, models, obs)
        initial = call(make_blend, models, obs, plain)
        rules = options.constraints, options.priors
    fit, found, terms = call(fit_blend, initial, obs, rules, settings.optimizer)
    measurements, source_models = call(measure_blend, found, obs, fit.status, terms)
    return fit, measurements, source_models


@functools.cache  # once is enough
def _say_that_it_compiles() -> None:
    """Log that programs are compiled, where they are kept, and how to compile them ahead of time."""
    folder = keep_programs()
    kept = "they are not kept (JAXDEBLEND_CACHE)" if folder is None else f"they are kept in {folder}"
    logger.warning(
        "compiling the programs for blends of this shape, which takes about 20 s; %s for later processes. Blends of "
        "similar shapes need no others. `jaxdeblend warmup` compiles ahead of time.",
        kept,
    )


def _under(blend: Blend, rules: Rules) -> Blend:
    """A blend whose morphologies are under other rules; those of users' classes stay as they are."""
    stacks = []
    for stack in blend.stacks:
        component = stack.component
        if isinstance(component, FactorizedComponent) and isinstance(component.morphology, ImageMorphology):
            morphology = jax.vmap(lambda part: part.under(*rules))(component.morphology)
            component = FactorizedComponent(component.spectrum, morphology)
        stacks.append(dataclasses.replace(stack, component=component))
    return dataclasses.replace(blend, stacks=tuple(stacks))


def _parts(blend: Packed) -> tuple[Packed, Packed]:
    """Pixels and PSFs of a packed blend, and its sources."""
    sources = {name: blend[name] for name in ("centers", "errors", "active")}
    pixels = {name: value for name, value in blend.items() if name not in (*sources, "start")}
    return pixels, sources


def observation_of(lane: dict[str, PyTree]) -> Observation:
    """The observation of one lane, as packed by `jaxdeblend.batch.plan.pack`, with its difference kernel.

    Its bands are numbers: programs do not depend on their names.
    """
    weights = lane["weights"]
    return Observation(
        lane["images"],
        jnp.where(weights > 0, 1 / jnp.where(weights > 0, weights, 1.0), 0.0),
        ImagePSF(lane["psf"]),
        bands=[str(number) for number in range(len(weights))],
        model_psf=lane["model_psf"],
        kernel=DifferenceKernel(lane["kernel"]) if "kernel" in lane else _kernel(lane),
        extent=lane["extent"],
    ).prepared(None if "kernel" in lane else lane["psf_edge"])


def _kernel(lane: dict[str, PyTree]) -> DifferenceKernel:
    """The difference kernel of one lane, cropped to the edge that its PSF had before it was padded."""
    kernel = DifferenceKernel.between(lane["model_psf"], ImagePSF(lane["psf"])).image
    edge = kernel.shape[-1]
    near = jnp.abs(jnp.arange(edge, dtype=lane["psf_edge"].dtype) - edge // 2) <= lane["psf_edge"] // 2
    cropped = jnp.where((near[:, None] & near[None, :])[None], kernel, 0.0)
    return DifferenceKernel(cropped / cropped.sum(axis=(-2, -1), keepdims=True))
