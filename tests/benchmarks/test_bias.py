import json

import numpy as np
import pytest

from benchmarks import bias


@pytest.mark.parametrize("poisson", [True, False])
def test_scenes_have_the_flux_and_the_signal_to_noise_that_they_claim(poisson):
    instrument = bias.Instrument.of("gaussian", 3.0, poisson=poisson)
    blends, truth = bias.scenes(instrument, "star", 1e3, neighbor=False, realisations=1)
    assert len(blends) == len(truth) == 9
    for (obs, _), flux in zip(blends, truth, strict=True):
        scatter = np.sqrt((1 / np.asarray(obs.weights, float)).sum(axis=(1, 2)))
        assert (np.abs(np.asarray(obs.images).sum(axis=(1, 2)) - flux[0]) < 4 * scatter).all()
        power = (np.asarray(obs.images) ** 2 * np.asarray(obs.weights)).sum() - obs.images.size
        np.testing.assert_allclose(power**0.5, 1e3, rtol=0.02)


def test_a_bias_is_marked_if_noise_cannot_be_the_reason():
    known = {"flagged": 0.0, "converged": True, "steps": 10.0}
    assert bias.Outcome(percent=0.5, sigma=0.5, uncertainty=0.05, **known).exceeds(0.3)
    assert not bias.Outcome(percent=0.5, sigma=0.5, uncertainty=0.2, **known).exceeds(0.3)
    assert not bias.Outcome(percent=0.2, sigma=9.0, uncertainty=0.1, **known).exceeds(0.3)


@pytest.mark.slow
def test_the_last_line_says_how_many_are_biased(capsys):
    bias.main(["--kind", "star", "--psf", "gaussian", "--noise", "white", "--fwhm", "3.5", "--snr", "100", "1e4"])
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert report["cases"] == 2 and report["biased"] == 0 and lines[1].startswith("star gaussian white 3.5")
