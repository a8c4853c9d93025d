import jax
import numpy as np
import pytest

from jaxdeblend.single_band.pack import PSF_SIZES, Bucket


def test_a_catalog_needs_few_programs():
    """Edges up to 128 pixels, as many peaks as usually lie in them, PSFs of FWHM 2 to 5 pixels."""
    buckets = {
        Bucket.of((edge, edge - 7), psf_edge, n_sources, int(np.ceil(1.5 * fwhm)))
        for edge in range(20, 129)
        for n_sources in range(edge // 12 + 2)
        for psf_edge, fwhm in ((21, 2.0), (43, 3.6), (51, 5.0))
    }
    assert len(buckets) <= 14


@pytest.mark.parametrize(
    "psf_edge, fit_radius, expected", [(33, 6, PSF_SIZES[0]), (33, 9, PSF_SIZES[2]), (127, 4, PSF_SIZES[3])]
)
def test_edge_and_width_of_a_psf_share_a_rung(psf_edge, fit_radius, expected):
    bucket = Bucket.of((64, 64), psf_edge, 3, fit_radius)
    assert (bucket.psf_edge, bucket.fit_radius) == expected


@pytest.mark.parametrize("psf_edge, fit_radius, expected", [(301, 6, (301, 32)), (33, 40, (201, 40))])
def test_a_psf_beyond_the_ladder_has_its_own_size(psf_edge, fit_radius, expected):
    bucket = Bucket.of((64, 64), psf_edge, 3, fit_radius)
    assert (bucket.psf_edge, bucket.fit_radius) == expected


@pytest.mark.parametrize(
    "backend, edge, n_sources, lanes", [("cpu", 32, 3, 1), ("gpu", 32, 3, 16), ("gpu", 2048, 9, 1)]
)
def test_lanes_follow_from_shapes_and_backend(monkeypatch, backend, edge, n_sources, lanes):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert Bucket.of((edge, edge), 33, n_sources, 6).lanes == lanes
