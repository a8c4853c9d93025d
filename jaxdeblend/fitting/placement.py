"""Stamps of several sources on frames as large as those of the fit."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..instrument.observation import Observation
from ..ops import stamps


class Placement(eqx.Module):
    """Where the stamps of some sources lie, as matrices of `jaxdeblend.ops.stamps.placement`.

    Attributes
    ----------
    rows, columns
        Matrices along y and x. Frames reach beyond the images by the observation's margin; further out, on padding,
        they are dark.
    """

    rows: Float[Array, "source y s"]
    columns: Float[Array, "source x s"]

    @classmethod
    def of(cls, obs: Observation, centers: Float[Array, "source 2"], stamp_edge: int) -> "Placement":
        """Placement of stamps of an odd edge about some positions."""
        height, width = (n + 2 * obs.margin for n in obs.shape)

        def matrix(position: Array) -> Array:
            return stamps.placement(position, max(height, width), stamp_edge)

        # one source after the other: what a cache holds
        both = jax.lax.map(jax.vmap(matrix), centers + obs.margin)
        end = jnp.asarray(obs.extent) + 2 * obs.margin
        pixel = jnp.arange(both.shape[2], dtype=end.dtype)
        both = jnp.where((pixel[None, :] < end[:, None])[None, :, :, None], both, 0.0)
        return cls(both[:, 0, :height], both[:, 1, :width])

    def frames(self, shapes: Float[Array, "source s s"]) -> Float[Array, "source y x"]:
        """The stamps on frames."""
        return jnp.einsum("nys,nst,nxt->nyx", self.rows, shapes, self.columns)
