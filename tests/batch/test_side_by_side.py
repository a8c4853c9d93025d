"""Programs that run side by side on a CPU must not wait for threads: jaxlib spreads a batch of factorizations, but no
single one, over the threads on which the programs themselves run."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

import jaxdeblend as jd
from jaxdeblend.batch.lanes import finish
from jaxdeblend.batch.plan import Item, lane_of, pack
from jaxdeblend.batch.stages import Settings
from jaxdeblend.single_band.deblend import deblend_packed
from jaxdeblend.single_band.pack import Item as SingleBandItem
from jaxdeblend.single_band.pack import pack as pack_single_band

FACTORIZATIONS = {"cholesky", "eigh", "geqrf", "householder_product", "lu", "qr", "svd", "triangular_solve"}
CENTERS = [(10.0, 9.0), (12.0, 14.0)]


def factorizations(jaxpr: Jaxpr) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and batch axes of every factorization in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in FACTORIZATIONS:
            yield equation.primitive.name, equation.invars[0].aval.shape[:-2]
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else [value]:
                if isinstance(part, ClosedJaxpr):
                    yield from factorizations(part.jaxpr)
                elif isinstance(part, Jaxpr):
                    yield from factorizations(part)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(1, 0.1, (3, 24, 24))


def test_fits_do_not_wait_for_threads(images):
    obs = jd.Observation(images, [0.01] * 3, jd.GaussianPSF([1.4, 1.5, 1.6]), bands=("g", "r", "i"))
    item = Item.of(obs, CENTERS, 0.1)
    settings = Settings(jd.Initialization(), jd.ProximalAdam(max_steps=3), item.bucket.stamp_edge)

    def fit(lane):
        problem = settings.start(lane)
        return finish(problem, problem.run())

    found = list(factorizations(jax.make_jaxpr(fit)(lane_of(pack([item], item.bucket, 1), 0)).jaxpr))
    assert {name for name, _ in found} >= {"cholesky", "lu"}
    assert {int(np.prod(batch)) for _, batch in found} == {1}


def test_single_bands_do_not_wait_for_threads(images):
    config = jd.SingleBandConfig()
    item = SingleBandItem.of(images[0], 0.01, jd.GaussianPSF(1.5), CENTERS, None, None, config)
    assert item.bucket.side_by_side
    packed = pack_single_band([item], item.bucket)
    program = jax.make_jaxpr(lambda blends: deblend_packed(blends, config, item.bucket))(packed)
    found = list(factorizations(program.jaxpr))
    assert found and {int(np.prod(batch)) for _, batch in found} == {1}
