import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdeblend.ops import wedge

shadow = jax.jit(wedge.wedge_shadow)


def draw(edge, seed):
    return np.random.default_rng(seed).normal(1.0, 1.0, (edge, edge))


def full(values):
    return jnp.asarray(values, dtype=float)


def rounded(value):
    return int(abs(value) + 0.5) * (1 if value > 0 else -1)


def shadow_on(dy, dx, vertical):
    """Pixels in the shadow of the pixel (dy, dx), written for a vertical side and turned for a horizontal one."""
    if not vertical:
        return [(y, x) for x, y in shadow_on(dx, dy, vertical=True)]
    sign = 1 if dx > 0 else -1
    found = []
    for k in range(1, 6):
        low, high = rounded(k * (dy / dx - 0.3)), rounded(k * (dy / dx + 0.3))
        found += [(dy + sign * step, dx + sign * k) for step in range(low, high + 1)]
    return found


def pixel_by_pixel(image):
    """The loop over pixels, as the operator is described in words."""
    result, radius = image.copy(), image.shape[0] // 2
    for first in range(1, radius + 1, 5):
        frozen = result.copy()
        for ring in range(first, min(first + 5, radius + 1)):
            for dy in range(-ring, ring + 1):
                for dx in range(-ring, ring + 1):
                    if max(abs(dy), abs(dx)) < ring:
                        continue
                    vertical = abs(dx) > abs(dy) or (dy == -dx)
                    for y, x in shadow_on(dy, dx, vertical):
                        if max(abs(y), abs(x)) <= radius:
                            here = y + radius, x + radius
                            result[here] = min(result[here], frozen[dy + radius, dx + radius])
    return result


@pytest.mark.parametrize("edge", [1, 3, 5, 13, 25, 31])
def test_it_is_exactly_the_loop_over_pixels(edge):
    for seed in range(3):
        image = np.asarray(full(draw(edge, seed)))
        assert np.abs(np.asarray(shadow(full(image))) - pixel_by_pixel(image)).max() == 0.0


@given(st.sampled_from([5, 13]), st.integers(0, 10**6))
@settings(max_examples=15)
def test_it_never_rises_above_its_input_and_keeps_the_peak(edge, seed):
    image = full(draw(edge, seed))
    once = shadow(image)
    assert (once <= image).all()
    assert once[edge // 2, edge // 2] == image[edge // 2, edge // 2]


def test_what_falls_steeply_outwards_stays():
    offset = np.arange(-12, 13)
    cone = 20 - np.hypot(offset[:, None], offset[None, :])
    np.testing.assert_array_equal(shadow(full(cone)), full(cone))


def test_a_second_source_is_cut_down_to_the_valley():
    offset = np.arange(-12, 13)
    along = np.exp(-0.5 * (offset / 2) ** 2) + 2 * np.exp(-0.5 * ((offset - 8) / 2) ** 2)
    image = full(along[None, :] * np.exp(-0.5 * (offset[:, None] / 2) ** 2))
    assert shadow(image)[12, 17:].max() <= image[12, 12:20].min()


def test_turning_the_stamp_around_turns_the_shadows():
    image = full(draw(13, 3))
    np.testing.assert_array_equal(shadow(image[::-1, ::-1]), shadow(image)[::-1, ::-1])


def test_under_jit_vmap_and_grad():
    images = full(np.stack([draw(13, seed) for seed in range(3)]))
    batch = jax.vmap(shadow)(images)
    np.testing.assert_array_equal(batch[2], shadow(images[2]))
    assert np.isfinite(jax.grad(lambda image: shadow(image).sum())(images[0])).all()
    assert batch.dtype == images.dtype


def test_a_pixel_has_at_most_fourteen_casters():
    assert max(len(casters) for _, casters in wedge._shadows(61)) <= 14
