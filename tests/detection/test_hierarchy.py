import dataclasses

import numpy as np
import pytest
from astropy.table import Table

import jaxdeblend as jd
from jaxdeblend.detection import sub_blends
from tests.detection.test_detection import SIGMA, noise, observe, stars


@pytest.mark.parametrize("valley", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("ratio", [1.0, 5.0])
def test_two_stars_part_where_the_pass_is_deep_enough(valley, ratio):
    # The map of a star is a Gaussian of variance 2 σ² (and a twelfth for the pixels it is sampled with).
    spread = 2 * (SIGMA**2 + 1 / 12)
    x = np.linspace(-10, 40, 5001)
    for distance in (6, 8, 10, 12, 14, 16):
        profile = np.exp(-(x**2) / (2 * spread)) + np.exp(-((x - distance) ** 2) / (2 * spread)) / ratio
        between = profile[(x > 0) & (x < distance)].min()
        lower = profile[np.abs(x - distance) < 1].max()
        obs = observe(stars([(24, 15), (24, 15 + distance)], [[1e5], [1e5 / ratio]]))
        found = jd.detect(obs)
        assert len(found.peaks) == 2 and len(found.footprints) == 1
        if abs(between / lower / valley - 1) > 0.3:
            assert len(set(sub_blends(obs, found, valley=valley))) == 1 + (between < valley * lower)


def test_a_chain_of_close_neighbours_stays_together():
    centers = [(24, 8), (24, 14), (24, 20), (24, 34), (24, 40)]
    obs = observe(stars(centers, np.full((5, 1), 3e4)))
    found = jd.detect(obs)
    assert len(found.footprints) == 1 and len(found.peaks) == 5
    right = found.centers[:, 1] > 27
    groups = sub_blends(obs, found)
    assert groups[0] == 0 and len(set(groups)) == 2
    assert len(set(groups[right])) == len(set(groups[~right])) == 1


def test_peaks_of_different_footprints_are_apart():
    obs = observe(stars([(10, 10), (38, 38)], [[500.0], [300.0]]) + noise(0, (1, 48, 48)))
    found = jd.detect(obs)
    assert len(found.footprints) == 2 and sub_blends(obs, found, valley=1e-9).tolist() == [0, 1]


def test_a_peak_without_a_footprint_is_alone():
    obs = observe(stars([(24, 22), (24, 26)], [[500.0], [500.0]]))
    found = jd.detect(obs)
    peaks = Table(found.peaks, copy=True)
    peaks["footprint"][1], peaks["y"][1] = -1, np.nan
    assert sub_blends(obs, dataclasses.replace(found, peaks=peaks)).tolist() == [0, 1]


def test_no_peaks():
    obs = observe(np.zeros((1, 16, 16)))
    assert sub_blends(obs, jd.detect(obs)).tolist() == []


def test_bad_valley():
    obs = observe(np.zeros((1, 16, 16)))
    with pytest.raises(ValueError, match="valley: got 0.0; give a fraction"):
        sub_blends(obs, jd.detect(obs), valley=0.0)
