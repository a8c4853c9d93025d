"""From a fitted blend to one with more sources."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..instrument.noise_units import in_noise_units
from ..instrument.observation import Observation
from ..model.blend import Blend
from ..runtime.programs import Program
from .initialize import Initialization, initialize, initialize_arrays
from .record import without_record
from .render import render_arrays, render_terms
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
    obs, unit = in_noise_units(obs)
    blend = blend.scaled(1 / unit)
    rest = eqx.tree_at(lambda o: o.images, obs, _rest(without_record(blend), obs))
    new = initialize(rest, centers, center_error=center_error, stamp_edge=stamp_edge, options=options)
    return _joined_and_solved(without_record(blend), new, obs).scaled(unit)


def extend_arrays(
    blend: Blend,
    obs: Observation,
    positions: Float[Array, "source 2"],
    error: Float[Array, " source"],
    active: Bool[Array, " source"],
    edge: int,
    options: Initialization,
) -> Blend:
    """The same as a pure function of arrays, for `jax.vmap` over blends.

    Parameters
    ----------
    blend
        The blend, which may be padded.
    obs
        Observation of the same frame.
    positions, error, active, edge, options
        As for `jaxdeblend.fitting.initialize.initialize_arrays`, of the new sources.
    """
    obs = obs.prepared()
    rest = eqx.tree_at(lambda o: o.images, obs, _left(blend, obs))
    return _joined_and_solved(blend, initialize_arrays(rest, positions, error, active, edge, options), obs)


def _left(blend: Blend, obs: Observation) -> Float[Array, "band y x"]:
    """What a blend leaves of the images; 0 where they are unusable."""
    return jnp.where(obs.weights > 0, obs.images - render_arrays(blend, obs), 0.0)


_rest = Program(_left)


@Program
def _joined_and_solved(blend: Blend, new: Blend, obs: Observation) -> Blend:
    both = Blend.join([blend, new])
    return solve_spectra(both, obs, render_terms(both, obs))
