"""From a fitted blend to one with more sources."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..instrument.observation import Observation
from ..model.blend import Blend, Stack
from ..model.prior import CenterPrior
from .initialize import Initialization, initialize
from .render import render, render_terms
from .spectra import solve_spectra


def add_sources(
    blend: Blend,
    obs: Observation,
    centers: object,
    *,
    center_error: object = 0.1,
    stamp_edge: int | None = None,
    options: Initialization | None = None,
) -> Blend:
    """Add sources to a blend that was fitted, for another fit.

    The first models of new sources are those of `initialize` for what the blend leaves of the images. All others keep
    their shapes and positions; spectra are then solved for together.

    Parameters
    ----------
    blend
        The blend, as from `fit`.
    obs
        Observation of the same frame.
    centers
        Positions (source, 2) of the new sources, (y, x) in pixels.
    center_error, stamp_edge, options
        As for `initialize`.

    Returns
    -------
    Blend
        Initial blend for `fit`: the sources there were, then the new ones.

    Raises
    ------
    ValueError
        If blend and observation have different frames, or as `initialize` does.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> result = jd.fit(jd.initialize(obs, [(4.0, 5.0)]), obs)
    >>> again = jd.fit(jd.add_sources(result.blend, obs, [(11.0, 9.5)]), obs)
    >>> len(again.blend.sources)
    2
    """
    if blend.frame != obs.shape:
        raise ValueError(f"blend: got a blend for the frame {blend.frame}; the observation's shape is {obs.shape}.")
    rest = eqx.tree_at(lambda o: o.images, obs, _rest(blend, obs))
    new = initialize(rest, centers, center_error=center_error, stamp_edge=stamp_edge, options=options)
    return _solved(_joined(blend, new), obs)


@eqx.filter_jit
def _rest(blend: Blend, obs: Observation) -> jnp.ndarray:
    """What a blend leaves of the images; 0 where they are unusable."""
    return jnp.where(obs.weights > 0, obs.images - render(blend, obs), 0.0)


@eqx.filter_jit
def _solved(blend: Blend, obs: Observation) -> Blend:
    return solve_spectra(blend, obs, render_terms(blend, obs))


def _joined(one: Blend, two: Blend) -> Blend:
    """The sources of two blends of one frame."""
    first = len(one.centers)
    stacks = tuple(Stack(stack.component, stack.source + first, stack.active) for stack in two.stacks)
    prior = CenterPrior(
        jnp.concatenate([one.center_prior.mean, two.center_prior.mean]),
        jnp.concatenate([one.center_prior.sigma, two.center_prior.sigma]),
    )
    return Blend(
        jnp.concatenate([one.centers, two.centers]),
        prior,
        (*one.stacks, *stacks),
        np.concatenate([one.active, two.active]),
        one.frame,
    )
