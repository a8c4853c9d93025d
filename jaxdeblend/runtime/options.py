"""Compile options, chosen by what the installed jaxlib knows."""

import functools
import logging
from collections.abc import Mapping
from types import MappingProxyType

import jax

logger = logging.getLogger(__name__)

OPTIONS: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    # With the older emitters, jaxlib 0.10 compiles a blend's program in two thirds of the time (14.9 s, not 22.7 s), in
    # 40 % of the memory and with 40 % of the mappings; the program is as fast. jaxlib 0.12 does not have them.
    {"cpu": MappingProxyType({"xla_cpu_use_fusion_emitters": False})}
)
"""Compile options by platform. An option that the installed jaxlib does not know is left out."""

ONE_CORE: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {"cpu": MappingProxyType({"xla_cpu_multi_thread_eigen": False})}
)
"""Options of programs that run side by side, each on one core."""


def compile_options(platform: str, one_core: bool = False) -> dict[str, bool]:
    """Compile options for a platform, as far as the installed jaxlib knows them.

    Examples
    --------
    >>> compile_options("gpu")
    {}
    """
    wanted = dict(OPTIONS.get(platform, {}))
    if one_core:
        wanted.update(ONE_CORE.get(platform, {}))
    return {name: value for name, value in wanted.items() if is_known(platform, name, value)}


@functools.cache
def is_known(platform: str, name: str, value: bool) -> bool:
    """Whether the installed jaxlib knows a compile option; it is asked by compiling a constant.

    Examples
    --------
    >>> is_known("cpu", "no_such_option", True)
    False
    """
    device = jax.local_devices(backend=platform)[0]
    try:
        with jax.default_device(device):
            jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError as error:
        logger.debug("compile option %s is left out: %s", name, error)
        return False
    return True
