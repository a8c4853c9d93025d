import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdeblend.single_band import SingleBandConfig, SingleBandFlag
from jaxdeblend.single_band.blend import BlendArrays, Templates, _cut, _placed, divide
from jaxdeblend.single_band.psf_template import PSFFit

RULES = ("r-to-peak", "r-to-footprint", "nearest-footprint", "trim")
POINTS = ("necessary", "always", "never")
N, EDGE = 3, 16


@functools.cache
def divided_by(config):
    return jax.jit(lambda blend, templates: divide(blend, templates, config))


def full(values):
    return jnp.asarray(values, dtype=float)


def draw(seed):
    """A blend of noise, with bad pixels, and templates that leave much of it alone and may be empty."""
    rng = np.random.default_rng(seed)
    good, footprint = rng.uniform(size=(2, EDGE, EDGE)) > 0.15
    image = np.where(good, rng.normal(1, 1, (EDGE, EDGE)) * 10.0 ** rng.uniform(-8, 8), 0)
    images = np.maximum(rng.normal(0, 1, (N, EDGE, EDGE)), 0) * (rng.uniform(size=(N, EDGE, EDGE)) > 0.5)
    images *= 10.0 ** rng.uniform(-8, 8, (N, 1, 1)) * (rng.uniform(size=(N, 1, 1)) > 0.2)
    zeros = jnp.zeros(N)
    fits = PSFFit(
        zeros,
        jnp.zeros((N, 2)),
        jnp.zeros((N, 3)),
        jnp.zeros((N, 2)),
        zeros,
        jnp.asarray(rng.uniform(size=N) > 0.5),
        jnp.zeros(N, int),
    )
    blend = BlendArrays(
        image=full(image),
        variance=full(good.astype(float)),
        good=jnp.asarray(good),
        footprint=jnp.asarray(footprint),
        inside=jnp.ones((EDGE, EDGE), bool),
        psf=jnp.ones((3, 3)) / 9,
        psf_edge=jnp.asarray(3),
        fwhm=full(3.0),
        noise=full(1.0),
        centers=full(rng.uniform(0, EDGE - 1, (N, 2))),
        active=jnp.ones(N, bool),
    )
    return blend, Templates(full(images), fits, jnp.zeros(N, bool), jnp.ones(N), jnp.zeros(N, int))


@pytest.mark.parametrize("rule", RULES)
@given(st.integers(0, 10**6), st.sampled_from(POINTS))
@settings(max_examples=15)
def test_no_light_is_lost_or_made(rule, seed, points):
    blend, templates = draw(seed)
    config = SingleBandConfig(stray_flux=rule, stray_flux_to_point_sources=points)
    found = divided_by(config)(blend, templates)
    image = np.where(found.footprint, blend.image, 0)
    total = np.asarray(found.images, np.float64).sum(axis=0) + found.unassigned
    assert np.abs(total - image).max() <= 1e-6 * np.abs(image).max()
    assert (np.asarray(found.footprint) >= np.asarray(blend.footprint)).all()
    assert np.isfinite(found.variances).all()


def test_variances_shrink_with_the_share():
    blend, templates = draw(3)
    scaled, copied = (divided_by(SingleBandConfig(variance=kind))(blend, templates) for kind in ("scaled", "copy"))
    share = np.divide(
        scaled.images, blend.image[None], where=np.asarray(blend.image != 0)[None], out=np.zeros((N, EDGE, EDGE))
    )
    np.testing.assert_allclose(scaled.variances, share**2, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(copied.variances) > 0, np.asarray(scaled.images) != 0)


def test_stray_light_is_counted_and_flagged():
    blend, templates = draw(5)
    trimmed, given_away = (
        divided_by(SingleBandConfig(stray_flux=rule))(blend, templates) for rule in ("trim", "r-to-peak")
    )
    gained = given_away.images.sum(axis=(1, 2)) - trimmed.images.sum(axis=(1, 2))
    np.testing.assert_allclose(given_away.stray_flux, gained, rtol=1e-3, atol=1e-3 * float(gained.max()))
    flagged = (np.asarray(given_away.flags) & SingleBandFlag.HAS_STRAY_FLUX) != 0
    np.testing.assert_array_equal(flagged, np.asarray(given_away.stray_flux) > 0)
    assert not (np.asarray(trimmed.flags) & SingleBandFlag.HAS_STRAY_FLUX).any()


@pytest.mark.parametrize("radius", [3, 8, 15])
@pytest.mark.parametrize("pixel", [(0, 0), (4, 11), (15, 15)])
def test_what_is_cut_out_is_put_back(rng, radius, pixel):
    frame = full(rng.normal(size=(EDGE, EDGE)))
    place = jnp.asarray(pixel)
    back = np.asarray(_placed(_cut(frame, place, radius), place, EDGE))
    y, x = np.mgrid[:EDGE, :EDGE]
    near = np.maximum(abs(y - pixel[0]), abs(x - pixel[1])) <= radius
    np.testing.assert_array_equal(back, np.where(near, frame, 0))
