import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.instrument.psf_polynomials import fit_psf_field


def grid(n):
    axis = np.linspace(0.0, 200.0, n)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def test_polynomials_are_found_again():
    """Stamps that vary as polynomials of the second degree, from as many positions as there are terms and from more."""
    rng = np.random.default_rng(1)
    base = np.asarray(jd.GaussianPSF([1.4, 1.8]).stamp(15), float)
    parts = 0.1 * rng.normal(size=(5, *base.shape)) * base
    parts -= parts.sum(axis=(-2, -1), keepdims=True) * base  # of no flux: unit sums stay

    def truth(places):
        v, u = ((places - 100) / 100).T
        weights = np.stack([u, u**2, v, v * u, v**2], axis=1)
        return base + np.einsum("pk,kbij->pbij", weights, parts)

    for places in (grid(3)[[0, 1, 2, 3, 4, 6]], grid(4)):
        field = fit_psf_field(truth(places), places, 2, zero_point=(100.0, 100.0), scale=(100.0, 100.0))
        elsewhere = np.array([[30.0, 170.0], [111.0, 5.0]])
        np.testing.assert_allclose(field.stamps(elsewhere), truth(elsewhere), atol=1e-6)
    assert field.degree == 2 and field.edge == 15 and field.n_bands == 2


def test_too_few_positions():
    stamps = np.asarray(jd.GaussianPSF([1.4] * 5).stamp(15))[:, None]
    with pytest.raises(ValueError, match="positions: got 5 for 6 terms; give at least as many"):
        fit_psf_field(stamps, grid(3)[:5], 2)
