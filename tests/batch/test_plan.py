import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxdeblend as jd
from jaxdeblend.batch import schedule
from jaxdeblend.batch.plan import Item, pack
from jaxdeblend.fitting.ladder import IMAGE_EDGES, PSF_EDGES, SOURCE_COUNTS, rung


@pytest.mark.parametrize("ladder", [IMAGE_EDGES, PSF_EDGES, SOURCE_COUNTS])
@given(size=st.integers(1, 5000))
def test_rungs_hold_what_they_are_for(ladder, size):
    chosen = rung(size, ladder)
    assert chosen >= size
    assert chosen in ladder or size > ladder[-1]
    assert not [step for step in ladder if size <= step < chosen]
    assert chosen % 2 == 1 or ladder is not PSF_EDGES


def item(shape, n, psf_edge=11, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(2, *shape))
    psf = rng.uniform(size=(2, psf_edge, psf_edge))
    obs = jd.Observation(images, np.ones(2), psf, bands=("g", "r"))
    return Item.of(obs, rng.uniform(0, min(shape), (n, 2)), 0.1)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 32), st.integers(1, 32)), min_size=1, max_size=3),
    psf_edge=st.sampled_from([1, 7, 15]),
)
@settings(max_examples=20)
def test_packing_loses_nothing_and_adds_no_weight(shapes, psf_edge):
    items = [item(shape, n, psf_edge, n) for n, shape in enumerate(shapes)]
    assert len({one.bucket for one in items}) <= 2  # up to two sources, or more
    packed = pack(items, items[-1].bucket, 4)
    for lane, one in enumerate(items):
        height, width = one.obs.shape
        np.testing.assert_array_equal(packed["images"][lane, :, :height, :width], one.obs.images)
        assert packed["weights"][lane].sum() == one.obs.weights.sum()
        assert packed["active"][lane].sum() == len(one.centers)
        np.testing.assert_allclose(packed["centers"][lane][packed["active"][lane]], one.centers, rtol=1e-6)
        np.testing.assert_allclose(packed["psf"][lane].sum(axis=(-2, -1)), 1.0, rtol=1e-5)
        assert packed["extent"][lane].tolist() == [height, width]
    assert not packed["weights"][len(items) :].any() and not packed["active"][len(items) :].any()


def test_packing_is_host_work():
    packed = pack([item((20, 30), 2)], item((20, 30), 2).bucket, 2)
    assert all(isinstance(value, np.ndarray) for name, value in packed.items() if name != "model_psf")


def test_blends_of_one_rung_share_a_bucket():
    assert item((20, 30), 3, 11).bucket == item((32, 17), 4, 15).bucket
    assert item((20, 30), 3).bucket != item((20, 33), 3).bucket
    assert item((20, 30), 4).bucket != item((20, 30), 5).bucket
    assert item((20, 30), 3, 15).bucket != item((20, 30), 3, 17).bucket


def test_usual_numbers_of_sources_share_a_program():
    """A small blend has few sources: those that have fewer still need no program of their own."""
    assert [item((edge, 20), 1).bucket.n_sources for edge in (30, 48, 64, 80, 96, 128, 400)] == [4, 4, 6, 8, 8, 12, 12]
    assert item((48, 20), 9).bucket.n_sources == 12


def test_a_blend_beyond_the_ladder_is_announced(caplog):
    large, usual = item((2049, 20), 3).bucket, item((30, 20), 3).bucket
    assert large.beyond_ladder and not usual.beyond_ladder and large.memory > 1e9
    with caplog.at_level(logging.WARNING):
        schedule._warn_if_beyond_ladder(usual)
        assert not caplog.records
        schedule._warn_if_beyond_ladder(large)
    assert "edge of 2049 pixels" in caplog.text and "GB" in caplog.text
