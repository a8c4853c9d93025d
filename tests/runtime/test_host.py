from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from jaxdeblend.runtime.host import default_dtype, host_or_device, settings_of_this_thread


def test_arrays_stay_where_they_are():
    assert isinstance(host_or_device([1, 2]), np.ndarray)
    assert isinstance(host_or_device(jnp.arange(3)), jax.Array)
    assert isinstance(jax.jit(host_or_device)(np.arange(3)), jax.Array)


def test_arrays_become_floats_of_the_default_type():
    for x64, dtype in ((False, np.float32), (True, np.float64)):
        with jax.enable_x64(x64):
            assert default_dtype() == dtype
            assert host_or_device(np.arange(3)).dtype == dtype
            assert host_or_device(jnp.arange(3)).dtype == dtype


def test_what_is_too_large_becomes_infinite():
    with jax.enable_x64(False):
        np.testing.assert_array_equal(host_or_device([1e300, -1e300]), [np.inf, -np.inf])


def test_another_thread_computes_as_this_one():
    with jax.enable_x64(True):
        as_here = settings_of_this_thread()

    def elsewhere():
        with as_here():
            return default_dtype()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result() == np.float64
