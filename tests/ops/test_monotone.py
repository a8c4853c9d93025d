import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdeblend.ops import monotone

SWEEPS = {"ring": jax.jit(monotone.ring_sweep), "weighted": jax.jit(monotone.weighted_sweep)}
stamp_sizes = st.sampled_from([1, 3, 5, 9])
seeds = st.integers(0, 10**6)
few = settings(max_examples=15)


def draw(edge, seed):
    return np.random.default_rng(seed).normal(1.0, 1.0, (edge, edge))


def full(values):
    return jnp.asarray(values, dtype=float)


def offsets(radius):
    """Offsets (dy, dx) of all pixels but the centre, outwards."""
    every = [(dy, dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
    return sorted((p for p in every if p != (0, 0)), key=lambda p: (max(abs(p[0]), abs(p[1])), p[0] ** 2 + p[1] ** 2))


def ring_limit(image, radius, dy, dx):
    """The ring inside, linearly interpolated where the ray from the pixel to the centre crosses it."""
    ring = max(abs(dy), abs(dx))
    y, x = dy * (ring - 1) / ring, dx * (ring - 1) / ring
    low = np.floor([y + 1e-9, x + 1e-9]).astype(int)
    fy, fx = y - low[0], x - low[1]
    limit = 0.0
    for step_y, wy in ((0, 1 - fy), (1, fy)):
        for step_x, wx in ((0, 1 - fx), (1, fx)):
            if wy * wx > 1e-9:
                limit += wy * wx * image[low[0] + step_y + radius, low[1] + step_x + radius]
    return limit


def weighted_limit(image, radius, dy, dx):
    """Mean over the strictly closer neighbours, weighted with the cosine between their direction and the centre's."""
    total = weight = 0.0
    for sy in (-1, 0, 1):
        for sx in (-1, 0, 1):
            if (dy + sy) ** 2 + (dx + sx) ** 2 < dy**2 + dx**2:
                cosine = abs(dy * sy + dx * sx) / np.hypot(dy, dx) / np.hypot(sy, sx)
                total += cosine * image[dy + sy + radius, dx + sx + radius]
                weight += cosine
    return total / weight


LIMITS = {"ring": ring_limit, "weighted": weighted_limit}


def pixel_by_pixel(image, limit):
    result, radius = image.copy(), image.shape[0] // 2
    order = offsets(radius)
    if limit is weighted_limit:
        order = sorted(order, key=lambda p: p[0] ** 2 + p[1] ** 2)
    for dy, dx in order:
        here = dy + radius, dx + radius
        result[here] = min(result[here], limit(result, radius, dy, dx))
    return result


@pytest.mark.parametrize("sweep", SWEEPS)
@given(stamp_sizes, seeds)
@few
def test_sweep_is_the_loop_over_pixels(sweep, edge, seed):
    image = draw(edge, seed)
    np.testing.assert_allclose(SWEEPS[sweep](full(image)), pixel_by_pixel(image, LIMITS[sweep]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sweep", SWEEPS)
@given(stamp_sizes, seeds)
@few
def test_sweep_is_feasible_idempotent_and_never_above_its_input(sweep, edge, seed):
    image = full(draw(edge, seed))
    once = np.asarray(SWEEPS[sweep](image))
    radius = edge // 2
    for dy, dx in offsets(radius):
        assert once[dy + radius, dx + radius] <= LIMITS[sweep](once, radius, dy, dx) + 1e-5
    assert (once <= np.asarray(image)).all()
    assert once[radius, radius] == image[radius, radius]
    np.testing.assert_allclose(SWEEPS[sweep](full(once)), once, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sweep", SWEEPS)
@given(stamp_sizes, seeds)
@few
def test_sweep_is_the_largest_feasible_stamp_below_its_input(sweep, edge, seed):
    """Whatever is feasible and below the input is below the projection, too."""
    image = draw(edge, seed)
    other = pixel_by_pixel(image - np.abs(draw(edge, seed + 1)), LIMITS[sweep])
    assert (other <= np.asarray(SWEEPS[sweep](full(image))) + 1e-5).all()


@pytest.mark.parametrize("sweep", SWEEPS)
def test_what_falls_outwards_stays(sweep):
    offset = np.arange(-8, 9)
    radius = np.hypot(offset[:, None], 1.4 * offset[None, :] + 0.3 * offset[:, None])
    cone = 20 - radius
    np.testing.assert_allclose(SWEEPS[sweep](full(cone)), cone, rtol=1e-5)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_sweep_has_the_symmetries_of_the_square(sweep):
    image = full(draw(9, 3))
    for turn in (jnp.rot90, jnp.flipud, jnp.fliplr, jnp.transpose):
        np.testing.assert_allclose(SWEEPS[sweep](turn(image)), turn(SWEEPS[sweep](image)), atol=1e-6)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_sweep_under_jit_vmap_and_grad(sweep):
    images = full(np.stack([draw(9, seed) for seed in range(3)]))
    batch = jax.vmap(SWEEPS[sweep])(images)
    np.testing.assert_allclose(batch[2], SWEEPS[sweep](images[2]), atol=1e-6)
    assert np.isfinite(jax.grad(lambda image: SWEEPS[sweep](image).sum())(images[0])).all()
    assert batch.dtype == images.dtype
