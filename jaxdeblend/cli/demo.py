"""The work of `jaxdeblend demo`: simulate, write, deblend, compare."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from astropy.io import fits

from ..catalog import compare_with_truth
from ..io import staged_folder, write_catalog
from ..runtime.progress import announce
from ..simulate import Field, simulate_field
from .options import Inputs, common_options, output_options
from .work import DeblendOptions, run_deblend

BANDS = ("g", "r", "i")
MIN_SNR = 10.0
"""True sources above this S/N are counted for completeness and flux errors."""


def run_demo(output: Path, *, size: int, seed: int, pictures: bool) -> tuple[str, int]:
    """Simulate a field, write it, and deblend the files.

    Parameters
    ----------
    output
        Folder to write to.
    size
        Edge of the field in pixels.
    seed
        Seed of the simulation.
    pictures
        Whether to draw.

    Returns
    -------
    text : str
        What came out, in words.
    code : int
        Exit code.
    """
    announce("simulating a field of %d x %d pixels in %d bands", size, size, len(BANDS))
    field = simulate_field(seed, shape=(size, size), bands=BANDS)
    write_field(field, output)
    inputs = Inputs(images=(str(output / "field_{band}.fits"),), bands=BANDS, psf=(str(output / "psf_{band}.fits"),))
    summary = run_deblend(DeblendOptions(inputs, output, overwrite=True, no_pictures=not pictures))
    comparison = compare_with_truth(summary.result.table, field.truth, BANDS, min_snr=MIN_SNR)
    (output / "comparison.json").write_text(json.dumps(comparison, indent=2) + "\n")
    return f"{summary.text()}\n\n{_comparison_text(comparison)}", summary.exit_code


def write_field(field: Field, output: Path) -> None:
    """Write a simulated field as a survey would: a file per band, PSF stamps, and the truth.

    Parameters
    ----------
    field
        The field.
    output
        Folder to write to.
    """
    names = [f"{kind}_{band}.fits" for kind in ("field", "psf") for band in field.bands] + ["truth.ecsv"]
    bits = sum((planes.astype(np.int32) << bit for bit, planes in enumerate(field.mask_planes.values())))
    mask_cards = fits.Header([(f"HIERARCH MP_{name}", bit) for bit, name in enumerate(field.mask_planes)])
    header = field.wcs.to_header()
    header["BUNIT"] = "electron"
    with staged_folder(output, names, overwrite=True) as stage:
        for number, band in enumerate(field.bands):
            header["FILTER"] = band
            planes = [
                fits.ImageHDU(field.images[number], header, name="IMAGE"),
                fits.ImageHDU(field.variance[number].astype(np.float32), name="VARIANCE"),
                fits.ImageHDU(np.asarray(bits)[number], mask_cards, name="MASK"),
            ]
            fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(stage / f"field_{band}.fits")
            fits.PrimaryHDU(field.psf[number]).writeto(stage / f"psf_{band}.fits")
        write_catalog(field.truth, stage / "truth.ecsv")


def _comparison_text(comparison: dict[str, Any]) -> str:
    lines = [
        "compared with the truth",
        f"  true sources          {comparison['true']:6d}, of which {comparison['bright']} above S/N {MIN_SNR:g}",
        f"  found                 {comparison['found']:6d}, of which {comparison['matched']} match a true one",
        f"  completeness          {100 * comparison['completeness']:6.1f}% above S/N {MIN_SNR:g}",
    ]
    errors = ", ".join(f"{band} {100 * error:.1f}%" for band, error in comparison["flux_error"].items())
    return "\n".join([*lines, f"  median flux error       {errors} above S/N {MIN_SNR:g} in the band"])


@click.command("demo")
@click.option("--size", type=click.IntRange(min=64), default=256, show_default=True, help="Edge in pixels.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the simulation.")
@output_options("demo")
@common_options
def demo_command(size: int, seed: int, output: Path, no_pictures: bool) -> int:
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
