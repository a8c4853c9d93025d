"""Programs of the batch engine can be compiled for accelerators; nothing of a CPU alone creeps in."""

import jax
import numpy as np
import pytest
from jax import export

import jaxdeblend as jd
from jaxdeblend.batch import stages
from jaxdeblend.batch.lanes import Lanes, turn
from jaxdeblend.batch.plan import Item, lane_of, pack


@pytest.fixture(scope="module")
def item():
    psf = np.asarray(jd.GaussianPSF([1.5]).stamp(15))
    obs = jd.Observation(np.ones((1, 20, 20)), np.ones((1, 20, 20)), psf, bands=["r"])
    return Item.of(obs, [(8.0, 8.0), (12.0, 11.0)], 0.1)


def lowered(function, *args):
    """The function exported for both platforms, and shapes of its result."""
    leaves, structure = jax.tree.flatten(args)
    shapes = []

    def of_leaves(*leaves):
        result = function(*jax.tree.unflatten(structure, leaves))
        shapes.append(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), result))
        return jax.tree.leaves(result)

    exported = export.export(jax.jit(of_leaves), platforms=["cuda", "tpu"])(*leaves)
    return exported, shapes[-1]


def test_the_stages_of_a_blend(item):
    blend = lane_of(pack([item], item.bucket, 1), 0)
    pixels, sources = stages._parts(blend)
    options, optimizer = jd.Initialization(), jd.ProximalAdam(max_steps=12)
    edge = item.bucket.stamp_edge
    found = {}

    def lower(name, function, *args):
        exported, found[name] = lowered(function, *args)
        assert exported.platforms == ("cuda", "tpu")
        return found[name]

    obs = lower("prepare_observation", stages.prepare_observation.function, pixels)
    first, _ = lower(
        "expand_sources", lambda obs, sources: stages.expand_sources.function(obs, sources, edge, options), obs, sources
    )
    lower("refine_models", stages.refine_models.function, first, obs)
    start = lower("make_blend", stages.make_blend.function, first, obs, options)
    fit, plain, terms = lower(
        "fit_blend", lambda start, obs: stages.fit_blend.function(start, obs, None, optimizer), start, obs
    )
    lower("measure_blend", stages.measure_blend.function, plain, obs, fit.status, terms)


def test_a_turn_of_lanes(item):
    settings = stages.Settings(jd.Initialization(), jd.ProximalAdam(max_steps=12), item.bucket.stamp_edge)
    lanes = Lanes(item.bucket, 2, settings)
    lanes._packed = pack([item], item.bucket, 1)
    entering = lanes._packed, np.zeros(1, np.int32), np.asarray(True), settings
    exported, _ = lowered(turn.function, entering, lanes._empty())
    assert exported.platforms == ("cuda", "tpu")
