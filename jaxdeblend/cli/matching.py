"""The work of `jaxdeblend match-psf`: read, match, write."""

import dataclasses
import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from astropy.io import fits
from jaxtyping import Float

from .._version import __version__
from ..instrument.psf import AbstractPSF, ImagePSF
from ..instrument.psf_field import AbstractPSFField, as_field
from ..io import Exposure, read_psf, staged_folder, write_catalog, write_exposure
from ..psf_match import MatchConfig, MatchedExposure, MatchedKernels, SpatialKernel, coadd_target, match_exposure
from ..psf_match.match import SOLVERS
from ..psf_match.options import check_kernel_sum
from ..runtime.progress import announce
from ..view import (
    candidates_figure,
    coefficients_figure,
    encircled_energy_figure,
    kernel_mosaic_figure,
    psf_match_figure,
)
from .matching_demo import DEMO_NAMES, demo_inputs, write_demo
from .options import (
    Inputs,
    Names,
    Numbers,
    common_options,
    inputs,
    optional_exposure_options,
    output_options,
    psf_of_widths,
)
from .work import run_record

logger = logging.getLogger(__name__)

PICTURES = ("psfs.png", "kernels.png", "candidates.png", "coefficients.png", "energy.png")
"""What is drawn."""

BETA = 3.0
"""Exponent of the Moffat profile that is the reference by default."""


@dataclasses.dataclass(frozen=True)
class MatchOptions:
    """What `jaxdeblend match-psf` was asked for; for a demo, `inputs` are the files that it writes."""

    inputs: Inputs
    output: Path
    config: MatchConfig
    reference: tuple[str, ...] = ()
    reference_fwhm: tuple[float, ...] = ()
    reference_model: str = "moffat"
    kernel_sum: float = 1.0
    demo: bool = False
    size: int = 512
    seed: int = 1
    overwrite: bool = False
    no_pictures: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Files that will be written."""
        pictures = () if self.no_pictures else PICTURES
        data = DEMO_NAMES if self.demo else ()
        return (*data, "matched.fits", "psf.fits", "kernel.fits", "candidates.ecsv", *pictures, "run.json")


@dataclasses.dataclass(frozen=True)
class BandSummary:
    """What became of one band; the FWHM are the smallest and the largest over the image."""

    good: int
    bad: int
    fwhm_before: tuple[float, float]
    fwhm_after: tuple[float, float]
    fwhm_reference: float
    worst_l2: float
    noise_gain: float
    masked_before: float
    masked_after: float


def run_match(options: MatchOptions) -> str:
    """Read, match and write.

    Parameters
    ----------
    options
        What to do.

    Returns
    -------
    str
        What came out, in words.
    """
    check_kernel_sum(options.kernel_sum)  # before anything is read or written
    started = time.perf_counter()
    with staged_folder(options.output, options.names, overwrite=options.overwrite) as stage:
        inputs = options.inputs
        if options.demo:
            write_demo(stage, size=options.size, seed=options.seed)
            inputs = demo_inputs(stage)
        exposure = inputs.read()
        reference = read_reference(options, exposure)
        read = time.perf_counter()
        announce("matching the PSFs of %d bands", len(exposure.bands))
        with told_warnings():
            matched = match_exposure(exposure, reference, options.config, kernel_sum=options.kernel_sum)
            summaries = summarize(exposure, matched)
        solved = time.perf_counter()
        announce("writing %s", ", ".join(options.names))
        _write(stage, options, exposure, matched)
        seconds = {"read": read - started, "match": solved - read, "total": time.perf_counter() - started}
        counts = {"candidates": len(matched.candidates.positions)}
        record = run_record(options, counts=counts, seconds=seconds, files=options.names)
        record["bands"] = {band: dataclasses.asdict(summary) for band, summary in summaries.items()}
        (stage / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    return f"{_text(summaries, seconds['total'])}\nwrote {', '.join(options.names)} to {options.output}"


def read_reference(options: MatchOptions, exposure: Exposure) -> AbstractPSF:
    """The PSF to match: of files, of a width, or broader than that of the exposure anywhere.

    Parameters
    ----------
    options
        What was asked for.
    exposure
        The exposure.

    Returns
    -------
    AbstractPSF
        Of one band, or all.
    """
    if options.reference and options.reference_fwhm:
        raise click.UsageError("give either --reference or --reference-fwhm.")
    if options.reference:
        return read_psf(options.reference, exposure.bands, pixel_scale=exposure.pixel_scale)
    if options.reference_fwhm:
        return psf_of_widths("--reference-fwhm", options.reference_fwhm, options.reference_model, exposure.bands)
    stamps = _stamps(as_field(exposure.psf), exposure)
    beta = None if options.reference_model == "gaussian" else BETA
    return coadd_target(ImagePSF(stamps.reshape(-1, *stamps.shape[-2:])), beta=beta)


@contextmanager
def told_warnings() -> Iterator[None]:
    """Log the warnings of the library, each once; the command line shows them on stderr."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for message in dict.fromkeys(str(one.message) for one in seen if one.category is UserWarning):
                logger.warning(message)


def summarize(exposure: Exposure, matched: MatchedExposure) -> dict[str, BandSummary]:
    """Numbers of each band.

    Parameters
    ----------
    exposure
        The exposure as it was.
    matched
        What was made of it.

    Returns
    -------
    dict[str, BandSummary]
        By the name of the band.
    """
    before, after = (_widths(as_field(one.psf), exposure) for one in (exposure, matched.exposure))
    reference = np.broadcast_to(np.asarray(matched.reference.fwhm()), before.shape[1:])
    candidates = matched.candidates
    spatial = {name: np.asarray(getattr(candidates.spatial, name)) for name in ("l2", "noise_gain")}
    summaries = {}
    for number, band in enumerate(exposure.bands):
        good = np.asarray(candidates.good)[:, number]
        summaries[band] = BandSummary(
            good=int(good.sum()),
            bad=int((~good).sum()),
            fwhm_before=_range(before[:, number]),
            fwhm_after=_range(after[:, number]),
            fwhm_reference=round(float(reference[number]), 3),
            worst_l2=float(spatial["l2"][good, number].max()),
            noise_gain=float(spatial["noise_gain"][good, number].max()),
            masked_before=float(exposure.mask[number].mean()),
            masked_after=float(matched.exposure.mask[number].mean()),
        )
    return summaries


def kernel_hdus(kernel: SpatialKernel, bands: Sequence[str]) -> fits.HDUList:
    """A spatial kernel as FITS: its images, and cards that tell what they are multiplied by.

    Parameters
    ----------
    kernel
        The kernel.
    bands
        Names of the bands.

    Returns
    -------
    fits.HDUList
        Images (band, term, k, k).

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> kernel = jd.SpatialKernel(np.full((1, 1, 3, 3), 1 / 9), jd.Box((0, 0), (64, 64)), 0)
    >>> kernel_hdus(kernel, ["r"])[0].shape
    (1, 1, 3, 3)
    """
    primary = fits.PrimaryHDU(np.asarray(kernel.images))
    cards = [
        ("ORDER", kernel.order, "largest total degree of the polynomials"),
        ("KIND", kernel.kind, "of the polynomials"),
        ("BOXY0", kernel.box.start[0], "first row, counted from 0, where u = -1"),
        ("BOXX0", kernel.box.start[1], "first column, where v = -1"),
        ("BOXNY", kernel.box.shape[0], "number of rows; u = 1 at the last"),
        ("BOXNX", kernel.box.shape[1], "number of columns; v = 1 at the last"),
        *((f"BAND{number}", band, "name of a band, in order") for number, band in enumerate(bands, 1)),
    ]
    primary.header.extend(cards)
    primary.header["COMMENT"] = "K(q; y, x) = sum_j P_j C_j(q), P_j = P_i(u) P_k(v): 1, u, u^2, ..., v, v u, ..., v^2"
    return fits.HDUList([primary])


def _write(stage: Path, options: MatchOptions, exposure: Exposure, matched: MatchedExposure) -> None:
    bands = exposure.bands
    write_exposure(stage / "matched.fits", matched.exposure)
    kernel_hdus(matched.kernel, bands).writeto(stage / "kernel.fits")
    _psf_hdus(exposure, matched).writeto(stage / "psf.fits")
    table = matched.candidates.table(bands)
    table.meta = {"software": f"jaxdeblend {__version__}", "bands": ",".join(bands)}
    write_catalog(table, stage / "candidates.ecsv")
    if not options.no_pictures:
        _draw(stage, exposure, matched)


def _psf_hdus(exposure: Exposure, matched: MatchedExposure) -> fits.HDUList:
    """The PSF in the middle as the first image, which is what is read; PSFs on a grid; and the one to be matched."""
    places = _places(exposure)
    stamps = _stamps(as_field(matched.exposure.psf), exposure)
    columns = [
        fits.Column("Y", "D", array=places[:, 0]),
        fits.Column("X", "D", array=places[:, 1]),
        fits.Column("PSF", f"{stamps[0].size}E", dim=str(stamps.shape[:0:-1]), array=stamps),
    ]
    grid = fits.BinTableHDU.from_columns(columns, name="PSF_GRID")
    reference = fits.ImageHDU(_reference_stamps(exposure, matched), name="REFERENCE")
    return fits.HDUList([fits.PrimaryHDU(stamps[len(stamps) // 2]), grid, reference])


def _draw(stage: Path, exposure: Exposure, matched: MatchedExposure) -> None:
    bands, kernel, candidates = exposure.bands, matched.kernel, matched.candidates
    at = int(np.argmin(np.sum((np.asarray(candidates.positions) - exposure.box.center) ** 2, axis=1)))
    quality = jax.tree.map(lambda figures: np.asarray(figures)[at], candidates.spatial)
    own = MatchedKernels(kernel.difference_kernel(candidates.positions[at]), quality, np.zeros(len(bands)))
    before, after = (_stamps(as_field(one.psf), exposure) for one in (exposure, matched.exposure))
    before = np.broadcast_to(before, (len(before), len(bands), *before.shape[-2:]))
    psf_match_figure(candidates.source[at], candidates.target[at], own, bands=bands, path=stage / "psfs.png")
    kernel_mosaic_figure(kernel, bands=bands, path=stage / "kernels.png")
    candidates_figure(candidates, kernel, bands=bands, path=stage / "candidates.png")
    coefficients_figure(kernel, bands=bands, path=stage / "coefficients.png")
    reference = _reference_stamps(exposure, matched)
    encircled_energy_figure(before, after, reference, bands=bands, path=stage / "energy.png")


def _places(exposure: Exposure) -> Float[np.ndarray, "9 2"]:
    """Corners, middles of the edges and the middle of an image; the last is the fifth."""
    ny, nx = exposure.shape
    axes = [0, (ny - 1) / 2, ny - 1], [0, (nx - 1) / 2, nx - 1]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def _stamps(field: AbstractPSFField, exposure: Exposure) -> Float[np.ndarray, "9 band n n"]:
    return np.asarray(field.stamps(_places(exposure)))


def _reference_stamps(exposure: Exposure, matched: MatchedExposure) -> Float[np.ndarray, "band n n"]:
    stamps = np.asarray(matched.reference.stamp(matched.reference.edge))
    return np.array(np.broadcast_to(stamps, (len(exposure.bands), *stamps.shape[1:])))


def _widths(field: AbstractPSFField, exposure: Exposure) -> Float[np.ndarray, "9 band"]:
    stamps = _stamps(field, exposure)
    widths = np.asarray(ImagePSF(stamps.reshape(-1, *stamps.shape[-2:])).fwhm()).reshape(stamps.shape[:2])
    return np.broadcast_to(widths, (len(widths), len(exposure.bands)))


def _range(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    return round(float(values.min()), 3), round(float(values.max()), 3)


def _text(summaries: Mapping[str, BandSummary], seconds: float) -> str:
    """A table, one row per band."""
    n_candidates = max(one.good + one.bad for one in summaries.values())
    lines = [
        f"PSFs at {n_candidates} positions matched, {seconds:.1f} s",
        "band  good   bad   FWHM before         after   reference   worst L2   noise gain   masked",
    ]
    for band, one in summaries.items():
        before, after = (f"{low:.2f} - {high:.2f}" for low, high in (one.fwhm_before, one.fwhm_after))
        lines.append(
            f"{band:<4}{one.good:6d}{one.bad:6d}{before:>14}{after:>14}{one.fwhm_reference:12.2f}{one.worst_l2:11.1e}"
            f"{one.noise_gain:13.3f}   {one.masked_before:.1%} -> {one.masked_after:.1%}"
        )
    return "\n".join(lines)


_INPUTS = tuple(field.name for field in dataclasses.fields(Inputs) if field.name not in ("images", "bands"))
_MATCHING = ("solver", "order", "cell", "kernel_edge", "allow_deconvolution", "mask_share")


@click.command("match-psf")
@optional_exposure_options
@click.option("--reference", type=Names(), help="PSF to match: a stamp for all bands, a file per band, or a cube.")
@click.option("--reference-fwhm", type=Numbers(), help="Instead: its FWHM in pixels, one or one per band.")
@click.option(
    "--reference-model",
    type=click.Choice(["moffat", "gaussian"]),
    default="moffat",
    show_default=True,
    help="Profile of the reference where it is not read (Moffat: beta 3).",
)
@click.option(
    "--method",
    "solver",
    type=click.Choice(list(SOLVERS)),
    default=MatchConfig.solver,
    show_default=True,
    help="How the kernel at each position is found.",
)
@click.option(
    "--order", type=int, default=MatchConfig.order, show_default=True, help="Degree of the polynomials of position."
)
@click.option("--cell", type=int, default=MatchConfig.cell, show_default=True, help="Size of a cell in pixels.")
@click.option("--kernel-size", "kernel_edge", type=int, help="Odd edge of the kernels.  [default: that of the PSFs]")
@click.option("--kernel-sum", type=float, default=1.0, show_default=True, help="Factor by which fluxes are scaled.")
@click.option("--allow-deconvolution", is_flag=True, help="Also match a narrower PSF, at the cost of noise.")
@click.option(
    "--mask-share",
    type=float,
    default=MatchConfig.mask_share,
    show_default=True,
    help="Share of its kernel on unusable pixels from which on a pixel is masked.",
)
@click.option("--demo", is_flag=True, help="Simulate the images and their PSFs first.")
@click.option("--size", type=click.IntRange(min=128), default=512, show_default=True, help="Edge of those in pixels.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the simulation.")
@click.option("--overwrite", is_flag=True, help="Replace files of an earlier run.")
@output_options("out")
@common_options
def match_psf_command(
    images: tuple[str, ...],
    bands: tuple[str, ...] | None,
    output: Path,
    demo: bool,
    reference: tuple[str, ...] | None,
    reference_fwhm: tuple[float, ...] | None,
    **options: Any,
) -> int:
    """Convolve images so that their PSF is the same everywhere, and in all bands.

    IMAGES are read as by `jaxdeblend deblend`. Their PSF may vary (.psf files of PSFEx). The reference is
    a PSF given by --reference or --reference-fwhm; otherwise a Moffat profile of 1.1 times the largest FWHM.

    \b
    Writes to the folder OUTPUT, once everything is done:
      matched.fits       IMAGE, VARIANCE and MASK of each band; jaxdeblend reads it
      psf.fits           PSF in the middle (for --psf), on a grid of 3 x 3 positions, and the reference
      kernel.fits        the kernel: an image for each polynomial of position
      candidates.ecsv    one row per position at which PSFs were matched, with the quality
      psfs.png, kernels.png, candidates.png, coefficients.png, energy.png
      run.json           version, options and figures of each band

    \b
    Examples:
      jaxdeblend match-psf --demo -o matched/
      jaxdeblend match-psf 'coadd_{band}.fits' --bands g,r,i --psf '{band}.psf' -o matched/
      jaxdeblend match-psf r.fits --bands r --psf psf_r.fits --reference psf_g.fits -o matched/
    """  # noqa: D301
    given = {"images": images, "bands": bands or (), **{name: options.pop(name) for name in _INPUTS}}
    if demo == bool(images) or (demo and any(given[name] for name in ("bands", "psf", "psf_fwhm"))):
        raise click.UsageError("give IMAGES, --bands and a PSF, or --demo alone, which makes its own.")
    if not demo and not bands:
        raise click.UsageError("Missing option '--bands'.")
    config = MatchConfig(**{name: options.pop(name) for name in _MATCHING})
    job = MatchOptions(
        inputs=demo_inputs(output) if demo else inputs(given),
        output=output,
        config=config,
        demo=demo,
        reference=reference or (),
        reference_fwhm=reference_fwhm or (),
        **options,
    )
    click.echo(run_match(job))
    return 0
