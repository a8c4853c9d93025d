"""Record of a fit in its blend: how it ended, and the checksum of the observation."""

import zlib
from typing import TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import UInt32

from ..instrument.observation import Observation
from ..model.blend import Blend, FitRecord
from ..runtime.host import AnyArray

F = TypeVar("F", bound=eqx.Module)


def recorded(result: F, obs: Observation) -> F:
    """The result of a fit (with `blend` and `status`), whose blend remembers status and observation."""
    record = FitRecord(result.status, checksum(obs))  # type: ignore[attr-defined]
    return eqx.tree_at(lambda r: r.blend.record, result, record, is_leaf=lambda node: node is None)


def without_record(blend: Blend) -> Blend:
    """The blend as if it had never been fitted: compiled programs are the same for both."""
    if blend.record is None:
        return blend
    return eqx.tree_at(lambda b: b.record, blend, None, is_leaf=lambda node: isinstance(node, FitRecord))


def checksum(obs: Observation) -> UInt32[AnyArray, ""] | None:
    """CRC-32 of pixels, weights, PSFs and names of the bands; None inside a transformation.

    What `Observation.prepared` adds is left out: it follows from the PSFs.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> one, two = (jd.Observation(np.full((1, 8, 8), x), [1.0], jd.GaussianPSF(1.5), bands=["r"]) for x in (1.0, 2.0))
    >>> bool(checksum(one) == checksum(two)), bool(checksum(one) == checksum(one.prepared()))
    (False, True)
    """
    added = (None, None, None)
    kept = eqx.tree_at(lambda o: (o.kernel, o.transform, o.points), obs, added, is_leaf=lambda node: node is None)
    leaves = jax.tree.leaves(kept)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return None
    total = zlib.crc32(repr(obs.bands).encode())
    for leaf in leaves:
        array = np.ascontiguousarray(leaf)
        total = zlib.crc32(array.tobytes(), zlib.crc32(repr(array.shape).encode(), total))
    return np.asarray(total, np.uint32)
