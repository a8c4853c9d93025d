"""One real blend without convolution, with full and with partial deconvolution; a JSON line for each, and a figure.

    python -m benchmarks.deconvolution
    python -m benchmarks.deconvolution path/to/blend.npz -o deconvolution.png

==========  =========================================================================================
``none``    models are not convolved: sources have the shape that they are seen with, in every band
``full``    models are convolved with the PSFs: sources have the shape that they have above the sky
``partial`` models are convolved with difference kernels: sources are seen through a narrow Gaussian
==========  =========================================================================================

``chi2_per_pixel`` is the mean squared residual in units of the noise, ``rms`` that of the residual in the units of the
image. Two figures tell how far models ring, as the data do not hold them back. ``unseen_power`` is the share of the
power Σ |m̂|² of the model of the brightest source, before convolution, that lies at spatial frequencies of which no
band's PSF passes 1 %: noise, and nothing else, decides about it. ``negative_flux`` is Σ |m| over the negative pixels of
the models of all sources on the pixel grid, before convolution, relative to Σ m. Shapes cannot be negative on their own
grids, but what is too sharp for the pixels rings when it is moved by a fraction of one.
"""

import argparse
import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure

import jaxdeblend as jd
from jaxdeblend.view import asinh_norm, rgb

from .data import find

UNUSABLE = 1 | 2 | 16 | 256
"""Bits of the mask that make a pixel unusable: BAD, SAT, EDGE and NO_DATA of HSC. The others only say what it has."""

UNSEEN = 0.01
"""A frequency is unseen if no PSF passes more of it."""

ZOOM = 15
"""Half the edge of the picture of the brightest source, in pixels."""

TITLES = {"none": "no convolution", "full": "full deconvolution", "partial": "partial deconvolution"}


@dataclasses.dataclass(frozen=True)
class Way:
    """How the blend came out, one way."""

    name: str
    obs: jd.Observation
    result: jd.Deblended

    @property
    def residual(self) -> np.ndarray:
        """Data less model (band, y, x), 0 where there are no data."""
        return np.where(np.asarray(self.obs.weights) > 0, np.asarray(self.obs.images) - self.result.model, 0)

    @property
    def scaled(self) -> np.ndarray:
        """The residual in units of the noise."""
        return self.residual * np.sqrt(np.asarray(self.obs.weights))

    @property
    def brightest(self) -> int:
        """Number of the source with most flux in all bands."""
        return int(np.argmax([float(source.flux.sum()) for source in self.result.blend.sources]))

    def deconvolved(self, source: int | None = None) -> np.ndarray:
        """Model of one source, or of all, before convolution, summed over the bands."""
        sources = self.result.blend.sources
        chosen = sources if source is None else [sources[source]]
        return np.sum([np.asarray(each.render()).sum(axis=0) for each in chosen], axis=0)


def load(path: pathlib.Path) -> dict:
    """Arguments of `Observation`, and the centres.

    Parameters
    ----------
    path
        An .npz file with ``images``, ``variance``, ``psfs``, ``filters``, ``catalog`` with x and y, and perhaps a
        ``mask`` of bit planes.

    Returns
    -------
    dict
        ``images``, ``variance``, ``psf``, ``bands``, ``mask`` and ``centers``.
    """
    with np.load(path, allow_pickle=False) as data:
        mask = (data["mask"] & UNUSABLE) != 0 if "mask" in data else None
        return {
            "images": data["images"],
            "variance": data["variance"],
            "psf": jd.ImagePSF(np.asarray(data["psfs"], np.float32)),
            "bands": tuple(str(band) for band in data["filters"]),
            "mask": mask,
            "centers": np.stack([data["catalog"]["y"], data["catalog"]["x"]], axis=1),
        }


def three_ways(psf: jd.ImagePSF) -> dict[str, dict]:
    """Options of `Observation` by the name of the way: PSFs, and kernels between them."""
    point = jd.ImagePSF(jnp.ones((1, 1)))
    nothing = jd.DifferenceKernel(np.ones((psf.n_bands, 1, 1), np.float32))
    return {
        "none": {"psf": point, "model_psf": point, "kernel": nothing},
        "full": {"psf": psf, "model_psf": point, "kernel": jd.DifferenceKernel(psf.stamps)},
        "partial": {"psf": psf},
    }


def deblend_three_ways(data: dict, optimizer: jd.ProximalAdam) -> list[Way]:
    """Deblend the same sources in three ways.

    Parameters
    ----------
    data
        As from `load`.
    optimizer
        Settings of the fits.

    Returns
    -------
    list of Way
        No convolution, full and partial deconvolution.
    """
    ways = []
    for name, options in three_ways(data["psf"]).items():
        obs = jd.Observation(data["images"], data["variance"], bands=data["bands"], mask=data["mask"], **options)
        ways.append(Way(name, obs, jd.deblend(obs, data["centers"], optimizer=optimizer)))
    return ways


def measured(way: Way, psf: jd.ImagePSF) -> dict:
    """The line of one way."""
    used = np.asarray(way.obs.weights) > 0
    scene = way.deconvolved()
    return {
        "way": way.name,
        "chi2_per_pixel": round(float(np.mean(way.scaled[used] ** 2)), 4),
        "rms": round(float(np.sqrt(np.mean(way.residual[used] ** 2))), 5),
        "unseen_power": float(f"{unseen_power(way.deconvolved(way.brightest), psf):.3g}"),
        "negative_flux": float(f"{-np.minimum(scene, 0).sum() / scene.sum():.3g}"),
        "n_steps": int(way.result.n_steps),
        "status": way.result.result.name,
        "version": jd.__version__,
    }


def unseen_power(model: np.ndarray, psf: jd.AbstractPSF, *, limit: float = UNSEEN) -> float:
    """Share of a model's power at spatial frequencies that the PSF of every band suppresses.

    Parameters
    ----------
    model
        Image (y, x) before convolution.
    psf
        PSF of the bands.
    limit
        Transmission |P̂| up to which a frequency is unseen.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> star = np.zeros((33, 33))
    >>> star[16, 16] = 1  # all frequencies alike
    >>> unseen_power(star, jd.GaussianPSF(2.0)) > 0.5
    True
    """
    stamps = np.asarray(psf.stamp(psf.edge), float)
    size = (2 * max(*model.shape, psf.edge),) * 2
    power = np.abs(np.fft.fft2(model, s=size)) ** 2
    seen = np.abs(np.fft.fft2(stamps, s=size)).max(axis=0) > limit
    return float(power[~seen].sum() / power.sum())


# ---------------------------------------------------------------------------------------------------------- the figure


def draw(ways: list[Way], lines: list[dict], path: pathlib.Path | None = None) -> Figure:
    """Draw a row for each way: data, model, residual, models before convolution, and the residual of each band.

    Parameters
    ----------
    ways, lines
        What came out, and its figures.
    path
        File to write.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    bands = ways[0].obs.bands
    height, width = ways[0].obs.shape
    columns = 5 + len(bands)
    ratios = [width] * 4 + [height] + [width] * len(bands)
    inches = 2.1 * sum(ratios) / height + 1.5
    figure = Figure(figsize=(inches, 2.3 * len(ways)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(ways), columns, squeeze=False, width_ratios=ratios)
    images = np.asarray(ways[0].obs.images)
    norm = asinh_norm(images, 1 / np.asarray(ways[0].obs.weights).clip(1e-30))
    brightest = ways[-1].brightest
    for row, way, line in zip(panels, ways, lines, strict=True):
        _show(row[0], rgb(images, bands=bands, norm=norm), "data")
        _show(row[1], rgb(way.result.model, bands=bands, norm=norm), "model")
        combined = way.scaled.sum(axis=0) / np.sqrt(len(bands))
        shown = _show(row[2], combined, f"residual / σ, χ²/N = {line['chi2_per_pixel']:.2f}", **_residual_style())
        _show(row[3], way.deconvolved(), "before convolution", **_model_style(way.deconvolved()))
        _show_brightest(row[4], way, brightest, line)
        for axes, band, residual in zip(row[5:], bands, way.scaled, strict=True):
            _show(axes, residual, band, **_residual_style())
        row[0].set_ylabel(TITLES[way.name], fontsize=10)
    bar = figure.colorbar(shown, ax=panels, fraction=0.012, pad=0.005, extend="both", label="residual / σ")
    bar.outline.set_visible(False)
    if path is not None:
        figure.savefig(path)
    return figure


def _show_brightest(axes: Axes, way: Way, source: int, line: dict) -> None:
    """The brightest source before convolution, close."""
    y, x = (int(round(float(at))) for at in way.result.blend.sources[source].center)
    model = np.pad(way.deconvolved(source), ZOOM)[y : y + 2 * ZOOM + 1, x : x + 2 * ZOOM + 1]
    title = f"brightest source, {line['unseen_power']:.1%} unseen"
    _show(axes, model, title, **_model_style(way.deconvolved()))


def _residual_style() -> dict:
    return {"cmap": "RdBu_r", "vmin": -5, "vmax": 5}


def _model_style(model: np.ndarray) -> dict:
    """Linear where it is faint, negative pixels in another colour."""
    top = float(np.percentile(np.abs(model), 99.9))
    return {"cmap": "PuOr_r", "norm": AsinhNorm(top / 300, vmin=-top, vmax=top)}


def _show(axes: Axes, picture: np.ndarray, title: str, **style):
    shown = axes.imshow(picture, origin="lower", interpolation="nearest", **style)
    axes.set_title(title, loc="left", fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return shown


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", default="hsc_cosmos_35", help="name of a file in ../shared/data, or a path")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="file for the figure")
    parser.add_argument("--max-steps", type=int, default=150, help="largest number of steps")
    arguments = parser.parse_args(argv)
    data = load(find(arguments.path))
    ways = deblend_three_ways(data, jd.ProximalAdam(max_steps=arguments.max_steps))
    lines = [measured(way, data["psf"]) for way in ways]
    for line in lines:
        print(json.dumps(line))
    if arguments.output is not None:
        draw(ways, lines, arguments.output)


if __name__ == "__main__":
    main()
