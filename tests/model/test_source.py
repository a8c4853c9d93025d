import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.ops import moments

GRID = np.arange(-12, 13)
BLOB = np.exp(-0.5 * (GRID[:, None] ** 2 + GRID[None, :] ** 2) / 4)


def galaxy(center=(14.3, 15.8), frame=(31, 33), **options):
    return jd.ExtendedSource(center, [1.0, 2.0], BLOB, frame=frame, **options)


def test_a_galaxy_is_rendered_at_its_own_subpixel_position():
    y, x = np.arange(31)[:, None], np.arange(33)[None, :]
    expected = np.exp(-0.5 * ((y - 14.3) ** 2 + (x - 15.8) ** 2) / 4)
    np.testing.assert_allclose(galaxy().render(), [expected, 2 * expected], atol=5e-3)


def test_flux_is_the_total_of_the_model():
    np.testing.assert_allclose(galaxy().flux, [BLOB.sum(), 2 * BLOB.sum()], rtol=1e-5)
    np.testing.assert_allclose(galaxy().render().sum(axis=(1, 2)), galaxy().flux, rtol=1e-3)


def test_a_star_has_the_flux_and_the_position_that_it_was_given():
    star = jd.PointSource((15.3, 14.6), np.array([5.0, 7.0], np.float32), frame=(31, 31))
    np.testing.assert_allclose(star.flux, [5, 7], rtol=1e-5)
    # the interpolation's far ripples, which weigh much in a first moment, move it by a hundredth of a pixel
    np.testing.assert_allclose(moments.centroid(star.render()[0]), [0.3, -0.4], atol=0.02)


def test_a_star_is_the_psf_of_model_space():
    star = jd.PointSource((7, 7), [3.0], model_psf=jd.GaussianPSF(1.1), edge=15)
    np.testing.assert_allclose(star.render((15, 15))[0], 3 * jd.GaussianPSF(1.1).stamp(15)[0], atol=1e-6)


def test_components_add_up():
    both = jd.ExtendedSource((10.0, 10.0), np.ones((2, 3)), np.stack([BLOB, BLOB**4]), frame=(21, 21))
    parts = [jd.ExtendedSource((10.0, 10.0), np.ones(3), blob, frame=(21, 21)) for blob in (BLOB, BLOB**4)]
    np.testing.assert_allclose(both.flux, parts[0].flux + parts[1].flux, rtol=1e-5)
    np.testing.assert_allclose(both.render(), parts[0].render() + parts[1].render(), atol=1e-5)
    assert both.spectrum.shape == (2, 3) and [stamp.shape for stamp in both.morphology] == [(25, 25)] * 2


def test_box_holds_the_light():
    source = galaxy(center=(14.3, 3.2))
    box = source.box
    assert box.contains(np.array([[14.3, 3.2]])).all() and box.shape == (27, 27)
    outside = np.asarray(source.render()).copy()
    outside[:, *box.overlap(jd.Box((0, 0), (31, 33))).slices] = 0
    np.testing.assert_allclose(outside, 0, atol=1e-6)


def test_defaults_of_a_galaxy():
    morphology = galaxy().components[0].morphology
    assert [type(c) for c in morphology.constraints] == [jd.Positive, jd.Monotonic, jd.CenterKept]
    assert [type(p) for p in morphology.priors] == [jd.SymmetricPrior]
    assert float(galaxy().center_error) == 0


def test_constraints_and_priors_can_be_chosen():
    morphology = galaxy(constraints=(), priors=()).components[0].morphology
    assert morphology.constraints == morphology.priors == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jd.Source((1.0, 2.0), ()), r"components: got none; a source needs at least one"),
        (lambda: jd.ExtendedSource((8, 8), jnp.ones(3), jnp.ones((4, 4))), r"morphology: got shape \(1, 4, 4\)"),
        (lambda: jd.ExtendedSource((8, 8), jnp.ones(3), jnp.ones((5, 3))), r"morphology: got shape \(1, 5, 3\)"),
        (
            lambda: jd.ExtendedSource((8, 8), jnp.ones((2, 3)), jnp.ones((5, 5))),
            r"morphology: got shape \(1, 5, 5\) for 2 spectra",
        ),
        (lambda: jd.PointSource((8, 8), jnp.ones(3)).render(), r"frame: got None; give the shape \(y, x\)"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
