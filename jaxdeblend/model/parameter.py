"""Which arrays of a module are fitted, and with what step."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

Module = TypeVar("Module", bound=eqx.Module)


def parameters(module: Module, **steps: PyTree) -> Module:
    """Describe the parameters of a module: its own structure with a step size for each fitted array.

    Parameters
    ----------
    module
        The module.
    **steps
        For each field that is fitted: the optimizer's step, an array that broadcasts to the field (0 keeps a value
        fixed), or the description of a sub-module. Every other array becomes None: not fitted.

    Returns
    -------
    eqx.Module
        A module of the same type.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> parameters(jd.FreeSpectrum(jnp.ones(2)), amplitude=0.1).amplitude
    Array([0.1, 0.1], dtype=float32)
    """
    described = jax.tree.map(lambda _: None, module)
    for name, step in steps.items():
        value = getattr(module, name)
        if eqx.is_array(value):
            step = jnp.broadcast_to(jnp.asarray(step, dtype=value.dtype), value.shape)
        described = eqx.tree_at(
            lambda tree, name=name: getattr(tree, name), described, step, is_leaf=lambda node: node is None
        )
    return described


def fitted(steps: PyTree) -> PyTree:
    """True for every array that has a step size, None elsewhere: a filter for `equinox.partition`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> fitted(parameters(jd.FreeSpectrum(jnp.ones(2)), amplitude=0.1)).amplitude
    True
    """
    return jax.tree.map(lambda step: step is not None, steps, is_leaf=lambda node: node is None)
