"""Blends for stores, made of random arrays: nothing is fitted, nothing compiled."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxdeblend as jd
from jaxdeblend.fitting.record import without_record
from jaxdeblend.measurement.photometry import Measurements
from jaxdeblend.model.blend import Stack

BANDS = ("g", "r", "i")
HEADER = jd.StoreHeader(bands=BANDS, config="threshold = 5.0\n", wcs="CRPIX1  = 3.0".ljust(80))
CONSTRAINTS = (jd.Positive(), jd.Monotonic(), jd.SparseThreshold(0.2), jd.CenterKept())
PRIORS = (jd.SymmetricPrior(0.2, 0.5),)


def image_component(rng, edge=15, n_bands=3):
    """A spectrum times free pixels, most of them zero."""
    pixels = np.maximum(rng.normal(-0.5, 0.5, (edge, edge)), 0).astype(np.float32)
    spectrum = jd.FreeSpectrum(jnp.asarray(rng.lognormal(size=n_bands), dtype=jnp.float32))
    step = jnp.asarray(rng.choice([0.0, 0.01]), dtype=jnp.float32)
    return jd.FactorizedComponent(spectrum, jd.ImageMorphology(jnp.asarray(pixels), CONSTRAINTS, PRIORS, step))


def point_component(rng, n_bands=3):
    """A spectrum times a point."""
    point = jd.PointMorphology(jnp.asarray(rng.uniform(size=(11, 11)), dtype=jnp.float32))
    return jd.FactorizedComponent(jd.FreeSpectrum(jnp.asarray(rng.normal(size=n_bands), dtype=jnp.float32)), point)


def cube_component(rng, n_bands=3):
    """A whole cube."""
    return jd.CubeComponent(jnp.asarray(rng.normal(size=(n_bands, 9, 9)), dtype=jnp.float32), (jd.Positive(),))


def stack(rng, components, n_sources):
    """Components of random sources, a few of them padding."""
    arrays = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *components)
    source = rng.integers(0, n_sources, len(components)).astype(np.int32)
    return Stack(arrays, source, rng.uniform(size=len(components)) < 0.8)


def blend(rng, stacks, n_sources, frame=(21, 24)):
    """A blend of these stacks."""
    centers = rng.uniform(3, 15, (2, n_sources, 2)).astype(np.float32)
    sigma = rng.choice([0.0, 0.1], n_sources).astype(np.float32)
    return jd.Blend(
        centers=centers[0],
        center_prior=jd.CenterPrior(centers[1], sigma),
        stacks=stacks,
        active=rng.uniform(size=n_sources) < 0.9,
        frame=frame,
    )


def record(number, seed=0, n_sources=None, bands=BANDS):
    """A finished blend of three kinds of components; the same for the same number and seed."""
    rng = np.random.default_rng((seed, number))
    n = int(rng.integers(1, 5)) if n_sources is None else n_sources
    makers = (image_component, point_component, cube_component)
    stacks = tuple(stack(rng, [make(rng) for _ in range(n)], n) for make in makers[: rng.integers(1, 4)] if n)
    model = blend(rng, stacks, n)
    n_steps = int(rng.integers(0, 7))
    loss = np.append(rng.normal(size=n_steps), np.full(3, np.nan)).astype(np.float32)
    fit = jd.FitResult(model, loss, np.array(n_steps, np.int32), np.array(rng.integers(0, 4), np.int32))
    place = (int(rng.integers(-5, 4000)), int(rng.integers(4000)))
    rows = rng.integers(0, 10**12, n)
    return jd.StoredBlend(
        number, number // 3, jd.Box(place, (21, 24)), rows, fit, measurements(rng, n), source_ids=rows + 2**40
    )


def measurements(rng, n):
    """Random measurements of n sources."""
    flux, error, blendedness, coverage, peak = rng.normal(size=(5, n, len(BANDS))).astype(np.float32)
    flux[:, 0] = np.nan
    center, moments = rng.normal(size=(n, 2)), rng.normal(size=(n, 3))
    counts, flags = rng.integers(0, 1024, (2, n)).astype(np.int32)
    per_band = (flux, error, blendedness, coverage, peak)
    return Measurements(*per_band, center.astype(np.float32), moments.astype(np.float32), counts, flags)


def _without_record(node):
    return without_record(node) if isinstance(node, jd.Blend) else node


def assert_same_bits(one, two):
    """The same tree, and the same bits in each array, but for records of fits: a store keeps their status alone."""
    one, two = (
        jax.tree.map(_without_record, tree, is_leaf=lambda node: isinstance(node, jd.Blend)) for tree in (one, two)
    )
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same_record(one, two):
    """The same record, to the last bit; losses after the last step do not count."""
    assert (one.id, one.parent, one.box, one.reason, one.status) == (
        two.id,
        two.parent,
        two.box,
        two.reason,
        two.status,
    )
    for name in ("rows", "source_ids"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert_same_bits(one.measurements, two.measurements)
    assert_same_bits(one.fit.blend, two.fit.blend)
    n_steps = int(one.fit.n_steps)
    assert n_steps == int(two.fit.n_steps)
    assert_same_bits(one.fit.loss[:n_steps], two.fit.loss[:n_steps])
