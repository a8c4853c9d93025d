"""Bring first models of bright galaxies near to the data.

An expansion misses a bright galaxy by up to a third of its maximum, because its widths are few and ten per cent of the
light count as noise there. At S/N 10⁴ that is thousands of σ, which the optimizer would need a hundred steps to make
up. Multiplicative updates take out smooth misfits of any size at once. With the model M = A x, linear in the shapes or
in the spectra x, data d and weights W,

    x <- x · ((Aᵀ W d) / (Aᵀ W M))^p,

with p = 1 lower χ² and keep x positive (image space reconstruction algorithm: Daube-Witherspoon & Muehllehner 1986,
IEEE Trans. Med. Imaging 5, 61; De Pierro 1987, ibid. 6, 174). Shapes and spectra of bright sources take turns. Details
that the PSF hides take many updates, and fewer as every other one has a larger p.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..instrument.observation import Observation
from .placement import Placement

MOST_UPDATES = 160
"""Updates at most, half of them of shapes. Broad PSFs need more than narrow ones."""

POWERS = (1.0, 3.0)
"""Exponents p of the updates of shapes, in turn: on its own, 3 would diverge."""

ENOUGH = 0.05
"""What χ² per pixel may have above 1: the rest is left to the optimizer."""

SLOW = 0.05
"""Share of this that a cycle of updates must gain for another to follow."""

LARGEST_FACTOR = 5.0
"""Largest factor of a pixel or a flux in one update."""


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
    weights = jnp.asarray(obs.weights)
    data = jnp.asarray(obs.images) - others
    alone = jnp.sum(jnp.any(spectra > 0, axis=1)) == 1
    n_pixels = jnp.sum(weights > 0, dtype=weights.dtype)

    def search() -> tuple[Array, Array]:
        placement = Placement.of(obs, centers, shapes.shape[-1])

        def model(shapes: Array, spectra: Array) -> Array:
            return obs.convolve(jnp.einsum("nb,nyx->byx", spectra, placement.frames(shapes)))

        def update(state: tuple[Array, ...]) -> tuple[Array, ...]:
            index, history, shapes, spectra = state
            image, pull = jax.vjp(model, shapes, spectra)
            chi2 = jnp.sum(weights * (image - data) ** 2)
            turn = index % (2 * len(POWERS))
            power = jnp.asarray(POWERS, weights.dtype)[turn // 2]
            ratios = jax.tree.map(_ratio, pull(weights * data), pull(weights * image))
            needed = chi2 > (1 + ENOUGH) * n_pixels
            shapes_now = turn % 2 == 0
            of_shapes = jnp.where(alone, ratios[0], _on_both_sides(ratios[0]))
            shapes = jnp.where(needed & shapes_now & bright[:, None, None], shapes * _factor(of_shapes, power), shapes)
            spectra = jnp.where(needed & ~shapes_now & bright[:, None], spectra * _factor(ratios[1], 1.0), spectra)
            return index + 1, jnp.append(history[1:], chi2), shapes, spectra

        def unfinished(state: tuple[Array, ...]) -> Bool[Array, ""]:
            index, history, *_ = state
            excess = history[-1] - n_pixels
            gains = (index < len(history)) | (history[0] - history[-1] > SLOW * excess)
            return (index < MOST_UPDATES) & gains & (excess > ENOUGH * n_pixels)

        total = shapes.sum(axis=(-2, -1), keepdims=True)
        unknown = jnp.full(2 * len(POWERS) + 1, jnp.inf, weights.dtype)
        start = jnp.zeros((), int), unknown, shapes / total, spectra
        _, _, found, fluxes = jax.lax.while_loop(unfinished, update, start)
        new_total = found.sum(axis=(-2, -1), keepdims=True)
        return found * (total / new_total), fluxes * new_total[:, :, 0]

    return jax.lax.cond(jnp.any(bright), search, lambda: (shapes, spectra))


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
    """Factor of an update."""
    return jnp.clip(ratio**power, 1 / LARGEST_FACTOR, LARGEST_FACTOR)
