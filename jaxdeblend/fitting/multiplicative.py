"""Bring first models of bright galaxies near to the data.

An expansion misses a bright galaxy by up to a third of its maximum, because its widths are few and ten per cent of the
light count as noise there. At S/N 10⁴ that is thousands of σ, which the optimizer would need a hundred steps to make
up. Multiplicative updates take out smooth misfits of any size at once. With the model M = A x, linear in the shapes or
in the spectra x, data d and weights W,

    x <- x · ((Aᵀ W d) / (Aᵀ W M))^p,

with p = 1 lower χ² and keep x positive if A is (image space reconstruction algorithm: Daube-Witherspoon & Muehllehner
1986, IEEE Trans. Med. Imaging 5, 61; De Pierro 1987, ibid. 6, 174). Shapes and spectra of bright sources take turns.
Details that the PSF hides take many updates, and fewer as every other one has a larger p. The best of all is returned.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..instrument.observation import Observation
from .placement import Placement

MOST_UPDATES = 160
"""Updates at most, half of them of shapes. Broad PSFs need more than narrow ones."""

POWERS = (1.0, 3.0)
"""Exponents p of the updates of shapes, in turn: on its own, 3 would diverge."""

ENOUGH = 0.05
"""Excess of χ² per pixel over 1 at which updates end: the rest is left to the optimizer."""

SLOW = 0.05
"""Share of the excess that a cycle of updates must gain for another to follow."""

LARGEST_FACTOR = 5.0
"""Largest factor of a pixel or a flux in one update: ratios of pixels that are nearly dark know no limit."""


def correct(
    obs: Observation,
    shapes: Float[Array, "source s s"],
    spectra: Float[Array, "source band"],
    centers: Float[Array, "source 2"],
    bright: Bool[Array, " source"],
    others: Float[Array, "band y x"],
) -> tuple[Float[Array, "source s s"], Float[Array, "source band"]]:
    """Shapes and spectra that are nearer to the data.

    Parameters
    ----------
    obs
        Observation, prepared.
    shapes, spectra
        Stamp of each source in model space, of any sum, and its flux in each band.
    centers
        Positions of the stamps.
    bright
        Sources that are updated; without any, nothing is done on a CPU.
    others
        Model of all other light.

    Returns
    -------
    tuple
        Shapes and spectra.
    """
    data = jnp.asarray(obs.images) - others
    weights = jnp.asarray(obs.weights)
    alone = jnp.sum(jnp.any(spectra > 0, axis=1)) == 1
    n_pixels = jnp.sum(weights > 0, dtype=weights.dtype)

    def search() -> tuple[Array, Array]:
        placement = Placement.of(obs, centers, shapes.shape[-1])

        def model(shapes: Array, spectra: Array) -> Array:
            return obs.convolve(jnp.einsum("nb,nyx->byx", spectra, placement.frames(shapes)))

        def update(state: _State) -> _State:
            image, pull = jax.vjp(model, state.shapes, state.spectra)
            chi2 = jnp.sum(weights * (image - data) ** 2)
            better = chi2 < state.lowest
            turn = state.index % (2 * len(POWERS))
            of_shapes, of_spectra = jax.tree.map(_ratio, pull(weights * data), pull(weights * image))
            of_shapes = jnp.where(alone, of_shapes, _on_both_sides(of_shapes))
            power = jnp.where(turn % 2 == 0, jnp.asarray(POWERS, weights.dtype)[turn // 2], 0.0)
            factors = _factor(of_shapes, power), _factor(of_spectra, jnp.where(power > 0, 0.0, 1.0))
            return _State(
                index=state.index + 1,
                history=jnp.append(state.history[1:], chi2),
                shapes=jnp.where(bright[:, None, None], factors[0], 1.0) * state.shapes,
                spectra=jnp.where(bright[:, None], factors[1], 1.0) * state.spectra,
                lowest=jnp.minimum(chi2, state.lowest),
                best=jax.tree.map(
                    lambda now, before: jnp.where(better, now, before), (state.shapes, state.spectra), state.best
                ),
            )

        def unfinished(state: _State) -> Bool[Array, ""]:
            excess = state.history[-1] - n_pixels
            gain = state.history[0] - state.history[-1]
            gains = (state.index < len(state.history)) | (gain > SLOW * excess)
            return (state.index < MOST_UPDATES) & gains & (excess > ENOUGH * n_pixels)

        total = shapes.sum(axis=(-2, -1), keepdims=True)
        infinity = jnp.full(2 * len(POWERS) + 1, jnp.inf, weights.dtype)
        start = shapes / total, spectra
        state = _State(jnp.zeros((), int), infinity, *start, infinity[0], start)
        found, fluxes = jax.lax.while_loop(unfinished, update, state).best
        new_total = found.sum(axis=(-2, -1), keepdims=True)
        return found * (total / new_total), fluxes * new_total[:, :, 0]

    return jax.lax.cond(jnp.any(bright), search, lambda: (shapes, spectra))


class _State(NamedTuple):
    """How far the updates are.

    Attributes
    ----------
    index
        Number of updates made.
    history
        χ² before each of the last cycle of updates.
    shapes, spectra
        Shapes of unit sum at the start, and fluxes, after these updates.
    lowest
        Lowest χ² so far.
    best
        Shapes and spectra that had it.
    """

    index: Int[Array, ""]
    history: Float[Array, " update"]
    shapes: Float[Array, "source s s"]
    spectra: Float[Array, "source band"]
    lowest: Float[Array, ""]
    best: tuple[Float[Array, "source s s"], Float[Array, "source band"]]


def _ratio(of_data: Float[Array, "..."], of_model: Float[Array, "..."]) -> Float[Array, "..."]:
    """Ratio of two sums, not negative; 1 where the model says nothing."""
    known = of_model > 0
    return jnp.where(known, jnp.maximum(of_data, 0.0) / jnp.where(known, of_model, 1.0), 1.0)


def _on_both_sides(ratio: Float[Array, "source s s"]) -> Float[Array, "source s s"]:
    """The one nearer to 1 of the ratios at opposite pixels, and 1 between them.

    Missing light on one side only is a neighbour's.
    """
    opposite = ratio[:, ::-1, ::-1]
    return jnp.clip(1.0, jnp.minimum(ratio, opposite), jnp.maximum(ratio, opposite))


def _factor(ratio: Float[Array, "..."], power: Float[Array, ""] | float) -> Float[Array, "..."]:
    """Factor of a pixel or a flux in one update."""
    return jnp.clip(ratio**power, 1 / LARGEST_FACTOR, LARGEST_FACTOR)
