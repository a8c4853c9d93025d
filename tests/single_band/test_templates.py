import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import nnls

from jaxdeblend.single_band import templates


def full(values):
    return jnp.asarray(values, dtype=float)


def blob(edge, center, width=2.0):
    y, x = np.mgrid[:edge, :edge]
    return np.exp(-0.5 * ((y - center[0]) ** 2 + (x - center[1]) ** 2) / width**2)


EVERYWHERE = jnp.ones((15, 15), bool)


@pytest.mark.parametrize("symmetry, expected", [("integer", (0, 0)), ("half", (1, 0)), ("subpixel", (0.8, -0.4))])
def test_the_mirror_stands_where_it_should(symmetry, expected):
    shift = templates.mirror_shift(full([0.4, -0.2]), symmetry)
    np.testing.assert_allclose(shift, expected, atol=1e-6)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.4, -0.2), (-0.5, 0.5)])
def test_the_mirror_image_is_linear_interpolation(rng, offset):
    stamp = rng.normal(size=(15, 15))
    found = templates.mirrored(full(stamp), templates.mirror_shift(full(offset), "subpixel"))
    y, x = np.mgrid[:15, :15]
    opposite = [2 * (7 + offset[0]) - y, 2 * (7 + offset[1]) - x]
    expected = ndimage.map_coordinates(np.pad(stamp, 2), [p + 2 for p in opposite], order=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_symmetric_source_is_its_own_template():
    stamp = blob(15, (7.5, 7.0))
    template, region = templates.symmetric_template(full(stamp), EVERYWHERE, EVERYWHERE, full([1.0, 0.0]))
    np.testing.assert_allclose(np.asarray(template)[1:], stamp[1:], atol=1e-6)
    assert not region[0].any()
    assert region[1:].all()


def test_a_neighbour_is_cut_out_by_symmetry():
    source, neighbour = blob(15, (7, 7)), blob(15, (7, 14), 1.0)
    template, _ = templates.symmetric_template(full(source + neighbour), EVERYWHERE, EVERYWHERE, jnp.zeros(2))
    np.testing.assert_allclose(template, source, atol=0.01)


def test_what_is_unusable_is_seen_in_the_mirror():
    stamp, good = blob(15, (7, 7)), np.ones((15, 15), bool)
    good[7, 9] = False
    template, _ = templates.symmetric_template(full(stamp * good), jnp.asarray(good), EVERYWHERE, jnp.zeros(2))
    np.testing.assert_allclose(template, stamp, atol=1e-6)


def test_the_footprint_is_made_symmetric():
    footprint = jnp.zeros((15, 15), bool).at[7, 5:12].set(True)
    template, region = templates.symmetric_template(full(np.ones((15, 15))), EVERYWHERE, footprint, jnp.zeros(2))
    assert np.flatnonzero(region[7]).tolist() == [5, 6, 7, 8, 9]
    np.testing.assert_array_equal(template, np.asarray(region, float))


def test_the_peak_stays_where_nothing_has_a_mirror_image():
    """Half a source, its centre on the border between the columns 7 and 8 of an image that ends with column 7."""
    inside = jnp.zeros((15, 15), bool).at[:, :8].set(True)
    stamp = blob(15, (7, 7.5)) * np.asarray(inside)
    template, region = templates.symmetric_template(full(stamp), inside, inside, full([0.0, 1.0]))
    assert np.argwhere(region).tolist() == [[7, 7]]
    assert template[7, 7] == pytest.approx(stamp[7, 7])
    assert not np.delete(np.asarray(template).ravel(), 7 * 15 + 7).any()


def half_an_image(width=3.0):
    """A source three pixels from the border of the image, columns below 4 lie outside."""
    inside = np.zeros((15, 15), bool)
    inside[:, 4:] = True
    stamp = blob(15, (7, 7), width) * inside
    template, region = templates.symmetric_template(full(stamp), jnp.asarray(inside), jnp.asarray(inside), jnp.zeros(2))
    return stamp, jnp.asarray(inside), template, region


def test_a_patched_template_has_the_image_where_there_is_no_mirror():
    stamp, inside, template, region = half_an_image()
    assert float(template[7, 11]) == 0
    patched, region, changed = templates.patched(template, region, full(stamp), inside, inside, jnp.zeros(2))
    np.testing.assert_allclose(patched, stamp, atol=1e-6)
    assert bool(changed)
    assert (region == inside).all()


def test_far_from_the_border_nothing_is_patched():
    stamp = full(blob(15, (7, 7), 1.0))
    inside = jnp.zeros((15, 15), bool).at[1:14, 1:14].set(True)
    footprint = jnp.zeros((15, 15), bool).at[4:11, 4:11].set(True)
    template, region = templates.symmetric_template(stamp, inside, footprint, jnp.zeros(2))
    _, after, changed = templates.patched(template, region, stamp, footprint, inside, jnp.zeros(2))
    assert not bool(changed)
    assert (after == region).all()


def ramp_by_loops(template, region, profile, reach):
    """The brightest PSF of all pixels at the border of the region."""
    wings = np.zeros_like(template)
    for y, x in np.argwhere(region & ndimage.binary_dilation(~region, border_value=1)):
        for v in range(-reach, reach + 1):
            for u in range(-reach, reach + 1):
                if 0 <= y + v < len(template) and 0 <= x + u < len(template):
                    wings[y + v, x + u] = max(wings[y + v, x + u], template[y, x] * profile[v + reach, u + reach])
    return wings


def test_a_ramp_starts_at_every_pixel_of_the_border():
    _, inside, template, region = half_an_image()
    profile = blob(7, (3, 3))
    ramp, after, changed = templates.ramped(
        template, region, inside, full(profile), full(3.0), full(0.01), jnp.zeros(2)
    )
    wings = ramp_by_loops(np.asarray(template), np.asarray(region), profile, 3)
    expected = np.where(region, template, 0)
    expected[:, 11:] = wings[:, 11:]
    np.testing.assert_allclose(ramp, expected, atol=1e-6)
    assert bool(changed)
    assert (after == (np.asarray(region) | (expected > 0))).all()


def test_a_faint_border_gets_no_ramp():
    _, inside, template, region = half_an_image(1.0)
    ramp, _, changed = templates.ramped(template, region, inside, jnp.ones((3, 3)), full(1.0), full(0.1), jnp.zeros(2))
    assert not bool(changed)
    np.testing.assert_array_equal(ramp, template)


def test_the_median_is_that_of_scipy(rng):
    stamp = full(rng.normal(size=(21, 21)))
    region = jnp.zeros((21, 21), bool).at[3:18, 5:19].set(True)
    expected = np.array(stamp)
    expected[5:16, 7:17] = ndimage.median_filter(np.asarray(stamp), 5)[5:16, 7:17]
    np.testing.assert_array_equal(templates.median_smoothed(stamp, region), expected)


@pytest.mark.parametrize("n", range(2, 14))
def test_networks_sort(rng, n):
    values = rng.normal(size=(n, 200))
    found = templates._sorted(list(full(values)))
    np.testing.assert_array_equal(np.stack(found), np.sort(np.asarray(full(values)), axis=0))


def test_narrow_templates_are_not_smoothed(rng):
    stamp = full(rng.normal(size=(9, 9)))
    region = jnp.zeros((9, 9), bool).at[3:7, :].set(True)
    np.testing.assert_array_equal(templates.median_smoothed(stamp, region), stamp)


@pytest.mark.parametrize("kind", ["ring", "wedge"])
def test_monotonic_cuts_a_second_peak_down(kind):
    stamp = full(blob(15, (7, 7)) + 2 * blob(15, (7, 13)))
    assert templates.monotonic(stamp, kind)[7, 13] < 1
    np.testing.assert_array_equal(templates.monotonic(stamp, "none"), stamp)


def test_weights_are_those_of_nonnegative_least_squares(rng):
    models = np.stack([blob(15, (7, 4)), blob(15, (7, 9)), blob(15, (3, 3))]) * 100
    image = 2 * models[0] + 0.5 * models[1] - 0.1 * models[2] + rng.normal(0, 0.1, (15, 15))
    expected, _ = nnls(models.reshape(3, -1).T, image.reshape(-1))
    np.testing.assert_allclose(templates.weights(full(models), full(image), EVERYWHERE), expected, atol=1e-4)


@pytest.mark.parametrize(
    "is_psf, dropped", [((False, False, False), (False, True, False)), ((True, False, False), (True, False, False))]
)
def test_of_two_that_are_alike_one_goes(is_psf, dropped):
    """The fainter one, or the one that is a PSF; the third is like no other."""
    models = np.stack([2 * blob(15, (7, 7)), blob(15, (7, 7.2)), blob(15, (1, 1), 1.0)])
    found = jax.jit(templates.degenerate, static_argnums=2)(full(models), jnp.asarray(is_psf), 0.5)
    assert found.tolist() == list(dropped)


def test_no_two_that_remain_are_alike(rng):
    models = np.stack([blob(15, center) for center in rng.uniform(3, 12, (12, 2))])
    dropped = np.asarray(templates.degenerate(full(models), jnp.zeros(12, bool), 0.5))
    flat = models.reshape(12, -1) / np.linalg.norm(models.reshape(12, -1), axis=1)[:, None]
    assert (flat @ flat.T - np.eye(12))[~dropped][:, ~dropped].max() <= 0.5 + 1e-6
    assert 0 < dropped.sum() < 12


@pytest.mark.parametrize("brightness, ambiguous", [((1.0, 0.4, 1.0), True), ((0.2, 1.0, 0.2), False)])
def test_the_middle_of_three_is_ambiguous_unless_it_is_the_brightest(brightness, ambiguous):
    centers = [(10, 4), (10, 10), (10, 16)]
    image = sum(level * blob(21, center) for level, center in zip(brightness, centers, strict=True))
    template, _ = templates.symmetric_template(
        full(image), jnp.ones((21, 21), bool), jnp.ones((21, 21), bool), jnp.zeros(2)
    )
    stack = jnp.stack([jnp.zeros_like(template), template, jnp.zeros_like(template)])
    found = templates.symmetry_ambiguous(stack, full(centers), full(brightness), full(2.0))
    assert found.tolist() == [False, ambiguous, False]
