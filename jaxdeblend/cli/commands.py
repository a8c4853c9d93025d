"""The commands."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .. import _version
from ..catalog.distribute import CHUNK
from ..detection.detection import METHODS
from ..psf_match import MatchConfig
from ..psf_match.match import SOLVERS
from ..single_band import SingleBandConfig
from ..single_band.config import CHOICES
from .cataloging import CatalogOptions, run_deblend_catalog, run_merge
from .demo import run_demo
from .detecting import run_detect
from .info import describe
from .matching import MatchOptions, run_match
from .matching_demo import demo_inputs
from .options import (
    Inputs,
    Names,
    Numbers,
    Shard,
    add_options,
    bits_or_names,
    catalog_options,
    common_options,
    exposure_options,
    inputs,
    optional_exposure_options,
    output_options,
    peaks_options,
)
from .products import products
from .restarting import restart
from .simulate import simulate
from .single_band import SingleBandOptions, run_single_band
from .warmup import run_warmup
from .work import DeblendOptions, run_deblend


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version.__version__, prog_name="jaxdeblend", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, help="Show more messages, and tracebacks.")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Separate overlapping stars and galaxies in multi-band images.

    \b
    See it work:       jaxdeblend demo -o demo/
    Look at files:     jaxdeblend info coadd_g.fits psf_g.fits
    Deblend them:      jaxdeblend deblend 'coadd_{band}.fits' --bands g,r,i --psf 'psf_{band}.fits' -o out/
    A large one:       jaxdeblend deblend-catalog exposure.toml -o out/
    One band alone:    jaxdeblend single-band visit_r.fits --bands r --psf psf_r.fits -o out/
    Match their PSFs:  jaxdeblend match-psf --demo -o matched/

    \b
    Exit codes: 0 all well; 1 finished, but some sources have no flux; 2 bad input (nothing is written);
    3 a fault of this program; 130 interrupted.
    """  # noqa: D301
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@group.command()
@exposure_options
@catalog_options
@click.option("--max-steps", type=click.IntRange(min=1), help="Most steps of a fit.")
@click.option("--no-symmetry", is_flag=True, help="Fit without the prior that galaxies are nearly symmetric.")
@output_options("out")
@common_options
def deblend(output: Path, **options: Any) -> int:
    """Deblend all sources in images of the same sky.

    IMAGES are FITS files: one per band in the order of --bands, a pattern with {band}, or one file for all
    bands. Extensions named IMAGE (SCI), VARIANCE (ERR, WHT, IVAR ...) and MASK (DQ) are found by
    themselves.

    \b
    Writes to the folder OUTPUT, once everything is done:
      catalog.ecsv   one row per source: position, flux and error per band, shape, flags
      models.fits    model and residual images, and the model of each source
      deblend.png    data, model and residual side by side
      run.json       version, options and counts

    \b
    Examples:
      jaxdeblend deblend 'coadd_{band}.fits' --bands g,r,i --psf 'psf_{band}.fits' -o out/
      jaxdeblend deblend g.fits r.fits --bands g,r --psf-fwhm 4.1,3.9 --bad-mask SAT,BAD
      jaxdeblend deblend cube.fits --bands g,r,i --psf psf.fits --peaks sextractor.cat --origin 1
    """  # noqa: D301
    job = DeblendOptions(inputs=inputs(options), output=output, **options)
    summary = run_deblend(job)
    click.echo(summary.text())
    return summary.exit_code


def _choice(name: str, explanation: str) -> Callable:
    """Option for one of the words of `SingleBandConfig`."""
    return click.option(
        f"--{name.replace('_', '-')}",
        type=click.Choice(list(CHOICES[name])),
        default=getattr(SingleBandConfig, name),
        show_default=True,
        help=explanation,
    )


@group.command("single-band")
@exposure_options
@catalog_options
@_choice("symmetry", "What templates are mirrored about: the position, or the nearest half or whole pixel.")
@_choice("edges", "Templates where the mirror image is off the image: PSF wings, the image itself, nothing.")
@_choice("smoothing", "Median of 5 x 5 pixels over templates; auto: unless the FWHM is below 2 pixels.")
@_choice("monotonic", "How templates are made to fall outwards.")
@_choice("stray_flux", "Who gets light where no template reaches; trim: nobody.")
@_choice("variance", "Variance of a share f of a pixel: f^2 of the pixel's, or the same.")
@click.option("--no-psf-templates", is_flag=True, help="Symmetric templates for all, point sources too.")
@click.option("--weight-templates", is_flag=True, help="Scale templates to the image by least squares first.")
@click.option("--remove-degenerate", is_flag=True, help="Drop one of two templates that are too alike.")
@click.option(
    "--max-area",
    "max_footprint_area",
    type=int,
    default=SingleBandConfig.max_footprint_area,
    show_default=True,
    help="Pixels of the largest footprint that is deblended; 0: any.",
)
@output_options("out")
@common_options
def single_band(output: Path, no_psf_templates: bool, **options: Any) -> int:
    """Divide each band of images of the same sky by templates, with no fit of all bands together.

    IMAGES are read, and sources found, as by `jaxdeblend deblend`. The template of a source is the PSF, or what is
    symmetric about its position; every pixel is divided in proportion to the templates. It is fast, and keeps
    all light, but sources that overlap much are told apart better by `jaxdeblend deblend`.

    
    Writes to the folder OUTPUT, once everything is done:
      catalog.ecsv            one row per source: position, and flux, error, PSF fit and flags of each band
      children.fits           what each source got of the images, and the rest that nobody did
      templates.fits          the template of each source, their sum, and the image without it
      single_band_BAND.png    image, templates, residual, and the brightest sources one by one
      run.json                version, options and counts of all flags

    
    Examples:
      jaxdeblend single-band r.fits --bands r --psf psf_r.fits -o out/
      jaxdeblend single-band 'visit_{band}.fits' --bands g,r --psf '{band}.psf' --peaks sources.ecsv
      jaxdeblend single-band r.fits --bands r --psf-fwhm 3.6 --stray-flux r-to-peak
    """  # noqa: D301
    names = [field.name for field in dataclasses.fields(SingleBandConfig) if field.name in options]
    config = SingleBandConfig(fit_psf=not no_psf_templates, **{name: options.pop(name) for name in names})
    job = SingleBandOptions(inputs=inputs(options), output=output, config=config, **options)
    summary = run_single_band(job)
    click.echo(summary.text())
    return summary.exit_code


def _peaks(command: Callable) -> Callable:
    """Add --peaks and what belongs to it."""
    return add_options(peaks_options(), command)


_kind_option = click.option(
    "--format",
    "kind",
    type=click.Choice(["ecsv", "fits", "parquet"]),
    default="ecsv",
    show_default=True,
    help="Format of the tables.",
)


@group.command("deblend-catalog")
@click.argument("exposure", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), default="out", show_default=True)
@click.option("--config", type=click.Path(path_type=Path), help="TOML with fields of jaxdeblend.DeblendConfig.")
@_peaks
@click.option(
    "--segmentation", type=click.Path(path_type=Path), help="Segmentation map (FITS), instead of detecting footprints."
)
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped; what it finished is kept.")
@click.option("--shard", type=Shard(), default="1/1", help="Fit only the i-th of n parts: 2/8.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that fit on this machine.  [default: this one]")
@click.option("--scheduler", help="Instead: those of the Dask scheduler at this address, tcp://host:8786.")
@click.option(
    "--chunk",
    type=click.IntRange(min=1),
    default=CHUNK,
    show_default=True,
    help="Most blends that a worker is sent at a time.",
)
@click.option("--write-mask", is_flag=True, help="Write masks with the plane NOT_DEBLENDED, too.")
@_kind_option
@common_options
def deblend_catalog(workers: int | None, scheduler: str | None, **options: Any) -> int:
    """Deblend a large exposure into a store of models, so that the run can stop and go on.

    EXPOSURE is a TOML file that describes it: bands, images, psf or psf_fwhm, and whatever else is needed.

    \b
    Writes to the folder OUTPUT:
      models.h5        the models, blend by blend; models.h5.partial while the run lasts
      catalog.ecsv     one row per source, with the reason where it was not fitted
      parents.ecsv     one row per parent: pieces, chi2, steps, what was skipped or failed
      blends.ecsv      the same of each work unit: parents that are large are fitted in several
      positions.ecsv   position of each row before the fit
      mask.fits        with --write-mask: MASK_<band>, with NOT_DEBLENDED where blends were skipped or failed
      run.json         version, options and counts

    \b
    Examples:
      jaxdeblend deblend-catalog exposure.toml -o out/
      jaxdeblend deblend-catalog exposure.toml -o out/ --resume
      jaxdeblend deblend-catalog exposure.toml -o out/ --workers 8
      jaxdeblend deblend-catalog exposure.toml -o out/ --scheduler tcp://node1:8786
      jaxdeblend deblend-catalog exposure.toml -o out/ --shard 2/8    then, after all: jaxdeblend merge out/
    """  # noqa: D301
    if workers is not None and scheduler is not None:
        raise click.UsageError("give --workers, which are started here, or --scheduler, which has its own.")
    text, code = run_deblend_catalog(CatalogOptions(workers=workers or scheduler, **options))
    click.echo(text)
    return code


@group.command()
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@_kind_option
@click.option("--overwrite", is_flag=True, help="Replace what was merged before.")
@common_options
def merge(output: Path, kind: str, overwrite: bool) -> int:
    """Put the shards of a catalog together, as if they had been one run.

    OUTPUT is the folder to which `jaxdeblend deblend-catalog --shard` wrote.

    \b
    Example:
      jaxdeblend merge out/
    """  # noqa: D301
    text, code = run_merge(output, kind, overwrite=overwrite)
    click.echo(text)
    return code


@group.command()
@exposure_options
@click.option("--threshold", type=float, default=5.0, show_default=True, help="Detection threshold in sigma.")
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default=METHODS[0],
    show_default=True,
    help="All bands together; each band, merged; or all together at several scales.",
)
@click.option("--overwrite", is_flag=True, help="Replace files of an earlier run.")
@output_options("out")
@common_options
def detect(output: Path, threshold: float, method: str, overwrite: bool, no_pictures: bool, **options: Any) -> int:
    """Find the sources, without deblending them.

    \b
    Writes to the folder OUTPUT:
      peaks.ecsv        one row per source: position and its error, significance, footprint
      footprints.ecsv   one row per footprint: its window and numbers of pixels and peaks
      footprints.fits   0 where there is no footprint, k + 1 on footprint k
      detect.png        the images with what was found

    \b
    Example:
      jaxdeblend detect 'coadd_{band}.fits' --bands g,r,i --psf-fwhm 3.8 -o found/
    """  # noqa: D301
    pictures = not no_pictures
    text = run_detect(
        inputs(options), output, threshold=threshold, method=method, overwrite=overwrite, pictures=pictures
    )
    click.echo(text)
    return 0


@group.command("match-psf")
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
def match_psf(
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


group.add_command(simulate)
group.add_command(products)
group.add_command(restart)

_INPUTS = tuple(field.name for field in dataclasses.fields(Inputs) if field.name not in ("images", "bands"))
_MATCHING = ("solver", "order", "cell", "kernel_edge", "allow_deconvolution", "mask_share")


@group.command()
@click.option("--bands", required=True, help="Names of the bands, as in later runs: g,r,i.")
@click.option("--size", "sizes", multiple=True, type=click.IntRange(8), default=(32, 64), help="Edge of blends; again.")
@click.option("--sources", multiple=True, type=click.IntRange(1), default=(2, 4, 8), help="Number of sources; again.")
@click.option("--psf-edge", type=click.IntRange(3), default=41, show_default=True, help="Odd edge of PSF images.")
def warmup(bands: str, sizes: tuple[int, ...], sources: tuple[int, ...], psf_edge: int) -> int:
    """Compile the programs for blends of the given shapes, and keep them for later runs.

    Without it, the first run that meets a shape compiles it. Sizes, numbers and edges are rounded up to those for
    which there are programs; every combination of --size and --sources is compiled.

    \b
    Example:
      jaxdeblend warmup --bands g,r,i,z,y --size 64 --size 96 --sources 4 --sources 8
    """  # noqa: D301
    names = tuple(band.strip() for band in bands.split(","))
    run_warmup(names, sizes, sources, psf_edge | 1, click.echo)
    return 0


@group.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--bad-mask", help="Mask planes or bit numbers to count as bad: SAT,BAD or 1,5.")
@common_options
def info(files: tuple[str, ...], bad_mask: str | None) -> int:
    """Show what FITS files hold: extensions, units, pixel scale, masked pixels, PSF width.

    \b
    Example:
      jaxdeblend info coadd_g.fits psf_g.fits
    """  # noqa: D301
    bad = None if bad_mask is None else bits_or_names(bad_mask.split(","))
    for path in files:
        click.echo(describe(path, bad))
    return 0


@group.command()
@click.option("--size", type=click.IntRange(min=64), default=256, show_default=True, help="Edge in pixels.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the simulation.")
@output_options("demo")
@common_options
def demo(size: int, seed: int, output: Path, no_pictures: bool) -> int:
    """Simulate a field of the sky, deblend it, and compare with the truth.

    The simulated images, PSFs and truth are written as files first; what follows is the same as `jaxdeblend
    deblend` on these files. Files of an earlier demo are replaced.

    \b
    Example:
      jaxdeblend demo -o demo/ --size 256
    """  # noqa: D301
    text, code = run_demo(output, size=size, seed=seed, pictures=not no_pictures)
    click.echo(text)
    return code
