import sys

import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.psf_match import KernelCandidates, KernelQuality
from jaxdeblend.view import (
    basis_figure,
    candidates_figure,
    coefficients_figure,
    encircled_energy_figure,
    kernel_mosaic_figure,
    psf_match_figure,
)

BOX = jd.Box((0, 0), (96, 128))
SIGMA = np.array([1.5, 1.8])
"""Of the PSFs of two bands at the origin; they are matched to Gaussians of 2.4."""


def gaussian(sigma, edge=21):
    return np.asarray(jd.GaussianPSF(sigma).stamp(edge))


@pytest.fixture(scope="module")
def kernel():
    """Gaussian kernels that get narrower with x, to first order; the flux is 3."""
    mean, step = gaussian(np.sqrt(2.4**2 - SIGMA**2)), gaussian(np.sqrt(2.2**2 - SIGMA**2))
    return jd.SpatialKernel(3 * np.stack([mean, 0 * mean, step - mean], axis=1), BOX, 1)


@pytest.fixture(scope="module")
def candidates():
    """Of 2 x 2 cells, two bands; the last one of the second is bad."""
    positions = np.array([[24.0, 32.0], [24.0, 96.0], [72.0, 32.0], [72.0, 96.0]])
    l2 = np.array([[1e-3, 2e-3], [3e-3, 4e-3], [5e-3, 6e-3], [7e-3, 8e-2]])
    quality = KernelQuality(*([l2] * 8))
    good = np.ones((4, 2), bool)
    good[3, 1] = False
    source = np.broadcast_to(gaussian(SIGMA), (4, 2, 21, 21))
    target = np.broadcast_to(gaussian([2.4, 2.4]), source.shape)
    return KernelCandidates(positions, (positions // 48).astype(int), source, target, source, quality, quality, good)


def panels(figure):
    """Axes that are no colour bars."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_every_band_has_a_row_of_psfs(tmp_path):
    target = jd.GaussianPSF([2.0, 2.4])
    matched = jd.match_psf(jd.GaussianPSF(1.5), target, kernel_sum=2.0)
    figure = psf_match_figure(jd.GaussianPSF(1.5), target, matched, bands=("g", "r"), path=tmp_path / "p.png")
    own = panels(figure)
    assert len(own) == 10 and [axes.get_ylabel() for axes in own[::5]] == ["g", "r"]
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    wanted = np.asarray(target.stamp(own[3].images[0].get_array().shape[0]))
    for axes in own[2:4]:  # modelled and target, in units of the target's maximum
        np.testing.assert_allclose(axes.images[0].get_array(), wanted[0] / wanted[0].max(), atol=3e-3)
    assert own[4].get_xlabel().startswith(f"L2 = {float(matched.quality.l2[0]):.1e}")
    assert own[1].get_xlabel().endswith(f"noise × {float(matched.quality.noise_gain[0]):.3f}")
    low, high = own[4].images[0].get_clim()
    assert low == -high and float(np.abs(own[4].images[0].get_array()).max()) == pytest.approx(high, rel=1e-6)


def test_residuals_are_those_of_the_kernel():
    """A kernel that does nothing leaves source less target."""
    nothing = np.zeros((1, 5, 5))
    nothing[0, 2, 2] = 1.0
    source, target = gaussian(1.5), gaussian(2.0)
    quality = KernelQuality(*([np.zeros(1)] * 8))
    matched = jd.MatchedKernels(jd.DifferenceKernel(nothing.astype(np.float32)), quality, np.zeros(1))
    residual = psf_match_figure(source, target, matched).axes[4].images[0].get_array()
    expected = (source - target)[0] / target.max()
    np.testing.assert_allclose(residual / residual.max(), expected / expected.max(), atol=1e-5)


def test_psfs_must_be_of_as_many_bands():
    matched = jd.match_psf(jd.GaussianPSF(1.5), jd.GaussianPSF(2.0))
    with pytest.raises(ValueError, match="`source` is a PSF of 3 bands, `matched` of 1"):
        psf_match_figure(jd.GaussianPSF([1.5, 1.5, 1.5]), jd.GaussianPSF(2.0), matched)
    with pytest.raises(ValueError, match="`bands` must name each of the 1 bands"):
        psf_match_figure(jd.GaussianPSF(1.5), jd.GaussianPSF(2.0), matched, bands=("g", "r"))


def test_kernels_are_in_their_places(kernel):
    figure = kernel_mosaic_figure(kernel, bands=("g", "r"), n=3)
    own = panels(figure)
    assert [axes.get_title(loc="left") for axes in own[:2]] == ["g: kernels", "g: less their mean"] and len(own) == 4
    assert [label.get_text() for label in own[0].get_xticklabels()] == ["21", "64", "106"]
    tile = (own[0].images[0].get_array().shape[0] + 1) // 3
    picture = own[0].images[0].get_array().filled(np.nan)
    middle = picture[tile : 2 * tile - 1, 2 * tile : 3 * tile - 1]
    expected = np.asarray(kernel.at(np.array([[47.5, 106.17]])))[0, 0]
    cut = (21 - middle.shape[0]) // 2
    expected = expected[cut : 21 - cut, cut : 21 - cut]
    np.testing.assert_allclose(middle / middle.max(), expected / expected.max(), atol=1e-3)
    with pytest.raises(ValueError, match="`n` must be 1 or more, got 0"):
        kernel_mosaic_figure(kernel, n=0)


def test_a_kernel_that_does_not_vary_is_drawn_once():
    figure = kernel_mosaic_figure(jd.SpatialKernel(gaussian(SIGMA)[:, None], BOX, 0))
    assert [axes.get_title(loc="left") for axes in panels(figure)] == ["0: kernel", "1: kernel"]


def test_candidates_on_the_map_and_the_worst(candidates, kernel):
    figure = candidates_figure(candidates, kernel, bands=("g", "r"), worst=3)
    own = panels(figure)
    assert [axes.get_title(loc="left") for axes in own[:2]] == ["g: 4 candidates, all good", "r: 4 candidates, 1 bad"]
    assert len(own) == 2 + 4 * 3
    points, rings, crosses = own[1].collections
    np.testing.assert_allclose(points.get_offsets(), candidates.positions[:, ::-1])
    np.testing.assert_allclose(points.get_array(), candidates.spatial.l2[:, 1])
    assert len(rings.get_offsets()) == 3 and crosses.get_offsets().tolist() == [[96.0, 72.0]]
    assert [axes.get_title(loc="left") for axes in own[2:5]] == ["r (72, 96)", "g (72, 96)", "r (72, 32)"]
    assert own[-1].get_xlabel() == "L2 = 6.0e-03"


def test_candidates_without_figures_are_not_the_worst(candidates, kernel):
    l2 = np.where(candidates.good, candidates.spatial.l2, np.nan)
    unknown = KernelCandidates(
        *(getattr(candidates, name) for name in ("positions", "cells", "source", "target", "kernels")),
        candidates.own,
        KernelQuality(*([l2] * 8)),
        candidates.good,
    )
    assert panels(candidates_figure(unknown, kernel, worst=1))[2].get_title(loc="left") == "0 (72, 96)"


def test_candidates_must_fit_the_kernel(candidates, kernel):
    single = jd.SpatialKernel(kernel.images[:1], BOX, 1)
    with pytest.raises(ValueError, match="`candidates` are of 2 bands, `kernel` is of 1"):
        candidates_figure(candidates, single)
    with pytest.raises(ValueError, match="`worst` must be 1 or more, got 0"):
        candidates_figure(candidates, kernel, worst=0)


def test_functions_of_a_basis_are_numbered():
    functions = np.random.default_rng(1).normal(size=(7, 5, 5))
    figure = basis_figure(functions, columns=3)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [str(term) for term in range(7)]
    picture = axes.images[0].get_array()
    first = np.asarray(picture[12:17, :5])  # on top
    np.testing.assert_allclose(first, functions[0] / np.abs(functions[0]).max(), atol=1e-6)
    assert np.ma.getmaskarray(picture)[:5, 6:].all()
    with pytest.raises(ValueError, match=r"`basis` must be \(term, k, k\), got shape \(7, 5\)"):
        basis_figure(functions[..., 0])


def test_coefficients_and_their_maps(kernel):
    figure = coefficients_figure(kernel, bands=("g", "r"))
    own = np.array(panels(figure)).reshape(3, 3)
    assert [axes.get_title(loc="left") for axes in own[0]] == ["$1$", "$T_1(y)$", "$T_1(x)$"]
    maps = [axes.images[0].get_array() for axes in own[0]]
    assert (maps[0] == 1).all() and (maps[1][-1] == 1).all() and (maps[2][:, 0] == -1).all()
    size = np.linalg.norm(kernel.images[1, 2]) / np.linalg.norm(kernel.images[1, 0])
    assert own[2, 0].get_xlabel() == "1" and float(own[2, 2].get_xlabel()) == pytest.approx(float(size), rel=0.06)


def test_many_terms_are_cut_off():
    images = np.random.default_rng(1).normal(size=(1, 28, 5, 5)).astype(np.float32)
    figure = coefficients_figure(jd.SpatialKernel(images, BOX, 6, "power"))
    assert len(figure.axes) == 2 * 15 and figure.axes[8].get_title(loc="left") == "$y^{1} x^{1}$"


def test_energy_within_a_radius_is_that_of_a_gaussian():
    """1 - exp(-r² / 2σ²); the range is that of the positions."""
    before, after = gaussian([1.5, 1.7], 41)[:, None], gaussian([3.0, 3.0], 41)[:, None]
    figure = encircled_energy_figure(before, after, gaussian(3.0, 41), bands=["r"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["r", ""]
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    assert set(lines) == {"before", "after", "reference"}
    radius, flux = lines["reference"][3:].T
    np.testing.assert_allclose(flux, 1 - np.exp(-0.5 * radius**2 / (3.0**2 + 1 / 12)), atol=0.01)
    np.testing.assert_allclose(lines["after"], lines["reference"], atol=1e-6)
    upper = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1].max()
    assert upper == pytest.approx(1, abs=1e-3) and len(figure.axes[1].collections) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before": np.ones((3, 21, 21))}, r"`before` must be stamps for 1 bands, got shape \(3, 21, 21\)"),
        ({"after": np.ones((3, 2, 21, 21))}, r"`after` must be stamps for 1 bands"),
        ({"reference": np.ones((1, 21, 19))}, r"`reference` must be stamps for 1 bands"),
        ({"bands": ("g", "r")}, "`bands` must name each of the 1 bands"),
    ],
)
def test_energy_needs_stamps_that_agree(changes, message):
    stamps = np.ones((3, 1, 21, 21))
    given = {"before": stamps, "after": stamps, "reference": stamps[0], "bands": ("g",)} | changes
    with pytest.raises(ValueError, match=message):
        encircled_energy_figure(given.pop("before"), given.pop("after"), given.pop("reference"), **given)


def test_matplotlib_is_asked_for_by_name(monkeypatch, kernel):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="Figures need Matplotlib"):
        coefficients_figure(kernel)
