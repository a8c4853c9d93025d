"""The work of `jaxdeblend detect`."""

from pathlib import Path
from typing import Any

import click
import numpy as np
from astropy.io import fits
from astropy.table import Table

from ..detection import Detection, detect
from ..detection.detection import METHODS
from ..io import Exposure, staged_folder, write_catalog
from ..measurement.table import add_sky
from ..runtime.progress import announce
from .options import Inputs, common_options, exposure_options, inputs, output_options
from .pictures import save_detection


def run_detect(inputs: Inputs, output: Path, *, threshold: float, method: str, overwrite: bool, pictures: bool) -> str:
    """Read, detect and write.

    Parameters
    ----------
    inputs
        Files to read.
    output
        Folder to write to.
    threshold
        Threshold in σ.
    method
        Way of detecting, see `jaxdeblend.detection.detect`.
    overwrite
        Whether files may be replaced.
    pictures
        Whether to draw.

    Returns
    -------
    str
        What was found, in words.
    """
    names = ("peaks.ecsv", "footprints.ecsv", "footprints.fits", *(("detect.png",) if pictures else ()))
    with staged_folder(output, names, overwrite=overwrite) as stage:
        exposure = inputs.read()
        detection = detect(exposure.observation(), method=method, threshold=threshold)
        announce("writing %s", ", ".join(names))
        write_catalog(_peaks(exposure, detection), stage / "peaks.ecsv")
        write_catalog(_footprints(detection), stage / "footprints.ecsv")
        header = None if exposure.wcs is None else exposure.wcs.to_header(relax=True)
        fits.PrimaryHDU(detection.labels, header).writeto(stage / "footprints.fits")
        if pictures:
            save_detection(exposure, detection, stage / "detect.png")
    found = f"{len(detection.peaks)} sources in {len(detection.footprints)} footprints"
    return f"{found}\nwrote {', '.join(names)} to {output}"


def _peaks(exposure: Exposure, detection: Detection) -> Table:
    peaks = detection.peaks.copy()
    add_sky(peaks, exposure.wcs)
    return peaks


def _footprints(detection: Detection) -> Table:
    footprints = detection.footprints
    columns = {
        "id": list(range(len(footprints))),
        "y0": [footprint.box.start[0] for footprint in footprints],
        "x0": [footprint.box.start[1] for footprint in footprints],
        "ny": [footprint.box.shape[0] for footprint in footprints],
        "nx": [footprint.box.shape[1] for footprint in footprints],
        "area": [footprint.area for footprint in footprints],
        "n_peaks": [len(footprint.peaks) for footprint in footprints],
    }
    return Table({name: np.array(values, dtype=np.int64) for name, values in columns.items()})


@click.command("detect")
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
def detect_command(
    output: Path, threshold: float, method: str, overwrite: bool, no_pictures: bool, **options: Any
) -> int:
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
