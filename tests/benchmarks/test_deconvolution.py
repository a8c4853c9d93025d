import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd
from benchmarks import deconvolution
from jaxdeblend.simulate import simulate_blend

BANDS = ("g", "r")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    scene = simulate_blend(3, shape=(24, 24), bands=BANDS, n_sources=2, psf_fwhm=[4.0, 3.2], spread=0.2)
    catalog = np.array([(x, y) for y, x in scene.centers], dtype=[("x", float), ("y", float)])
    path = tmp_path_factory.mktemp("blend") / "blend.npz"
    mask = np.zeros(scene.images.shape, np.int32)
    mask[:, 0, 0], mask[:, 5, 5] = 2, 32  # saturated; detected
    arrays = {"images": scene.images, "variance": scene.variance, "psfs": scene.psf[:, 15:36, 15:36], "mask": mask}
    np.savez(path, filters=np.array(BANDS), catalog=catalog, **arrays)
    return path


def stars(obs, centers, *, optimizer):
    """In place of a fit: two stars, whose shapes in model space are known."""
    fluxes = np.array([[900.0, 1200.0], [300.0, 200.0]], np.float32)
    sources = [
        jd.PointSource(np.floor(center) + 0.5, flux, model_psf=obs.model_psf, frame=obs.shape)
        for center, flux in zip(centers, fluxes, strict=True)
    ]
    blend = jd.Blend.of(sources, frame=obs.shape)
    model = np.asarray(jd.render(blend, obs))
    return types.SimpleNamespace(blend=blend, model=model, n_steps=optimizer.max_steps, result=jd.RESULTS.MAX_STEPS)


@pytest.mark.slow
def test_three_lines_and_a_figure(path, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jd, "deblend", stars)
    output = tmp_path / "figure.png"
    deconvolution.main([str(path), "-o", str(output), "--max-steps", "3"])
    lines = {line["way"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(lines) == ["none", "full", "partial"]
    assert output.read_bytes().startswith(b"\x89PNG")
    assert lines["full"]["unseen_power"] > 0.2 > 0.03 > lines["partial"]["unseen_power"] > 0
    assert lines["full"]["negative_flux"] > 1 > 0.1 > lines["partial"]["negative_flux"]  # between pixels, a point rings
    assert all(line["n_steps"] == 3 and line["status"] == "MAX_STEPS" for line in lines.values())


def test_only_some_planes_of_the_mask_are_unusable(path):
    data = deconvolution.load(path)
    assert data["mask"].sum() == 2 and data["mask"][:, 0, 0].all()


def test_every_way_convolves_as_it_says():
    """A star of unit flux is seen as a pixel, as the PSF, and as the PSF."""
    psf = jd.ImagePSF(jd.MoffatPSF([3.2, 4.0], 3.0).stamp(21))
    point = jnp.pad(jnp.ones((2, 1, 1)), ((0, 0), (10, 10), (10, 10)))
    star = {"none": point, "full": point, "partial": jnp.repeat(jnp.asarray(jd.GaussianPSF(0.8).stamp(21)), 2, axis=0)}
    expected = {"none": point, "full": psf.stamps, "partial": psf.stamps}
    for name, options in deconvolution.three_ways(psf).items():
        obs = jd.Observation(np.zeros((2, 21, 21)), np.ones((2, 21, 21)), bands=BANDS, **options)
        np.testing.assert_allclose(obs.convolve(star[name]), expected[name], atol=0.01 * float(expected[name].max()))


@pytest.mark.parametrize("sigma", [1.5, 2.0])
def test_power_beyond_the_psf(sigma):
    """A Gaussian PSF passes 1 % at |f| = √(2 ln 100) / 2πσ; a star has the same power at all frequencies."""
    star = np.zeros((101, 101))
    star[50, 50] = 1
    reach = np.sqrt(2 * np.log(100)) / (2 * np.pi * sigma)
    found = deconvolution.unseen_power(star, jd.GaussianPSF(sigma))
    assert found == pytest.approx(1 - np.pi * reach**2, abs=0.02)
    y, x = np.indices((101, 101)) - 50
    smooth = np.exp(-0.5 * (y**2 + x**2) / (3 * sigma) ** 2)
    assert deconvolution.unseen_power(smooth, jd.GaussianPSF(sigma)) < 1e-8
