import numpy as np
import pytest

from benchmarks import contamination
from benchmarks.bias import Instrument

INSTRUMENT = Instrument.of("gaussian", contamination.FWHM, poisson=False)


def added(**what):
    rng = np.random.default_rng(0)
    return contamination.Contamination("test", **what).light(INSTRUMENT, rng)


def test_light_that_is_added():
    np.testing.assert_array_equal(added(), 0)
    np.testing.assert_array_equal(added(sky=0.1), 0.1)
    np.testing.assert_allclose(added(slope=0.5)[:, [0, -1], 7], [[-0.25, 0.25]] * 3)
    outside = added(outside=True)[1]
    assert outside[30].argmax() == 0 and outside[30, 0] > 1 and outside[:, 30:].max() < 1e-3


@pytest.mark.parametrize("n_hit", [1, 2])
def test_hits_are_near_the_star_in_as_many_bands_as_told(n_hit):
    light = added(hit=20.0, n_hit=n_hit)
    assert (light > 0).sum(axis=(1, 2)).tolist() == [1] * n_hit + [0] * (3 - n_hit) and light.max() == 20
    for place in np.argwhere(light):
        assert np.hypot(*(place[1:] - contamination.CENTERS[0])) < contamination.HIT_RADIUS + 1


def test_sources_have_the_signal_to_noise_that_they_claim():
    (obs,) = contamination.observations(INSTRUMENT, contamination.Contamination("clean"), 1)
    power = (np.asarray(obs.images, float) ** 2).sum(axis=(1, 2)) - obs.images[0].size
    np.testing.assert_allclose(power, 2 * contamination.SNR**2, rtol=0.05)
