"""The work of `jaxdeblend info`."""

from collections.abc import Sequence

import click
import numpy as np
from astropy.io import fits

from ..instrument.psf import ImagePSF
from ..io import read_models, read_planes
from ..io.mask_bits import mask_bits, mask_kind_of
from ..io.masks import any_of, as_bits, bad_pattern, mask_planes
from ..io.pixels import open_fits
from ..io.planes import FilePlanes, Plane
from .options import bits_or_names, common_options

LARGEST_PSF = 201
"""Larger images are not taken for PSFs."""


def describe(path: str, bad_mask: Sequence[str | int] | None = None) -> str:
    """Say what a FITS file holds.

    Parameters
    ----------
    path
        The file.
    bad_mask
        Planes or bits of masks that count as bad.

    Returns
    -------
    str
        Some lines of text.
    """
    with open_fits(path) as hdus:
        names = [_short(hdu) for hdu in hdus]
    file = read_planes(path, _bands(names))
    lines = [f"{path}", "  extensions   " + ", ".join(names)]
    for plane in file.planes:
        lines += [f"  {line}" for line in _plane_lines(file, plane, bad_mask)]
    if "SOURCES" in {name.split()[0] for name in names}:
        lines.append(f"  models       of {len(read_models(path).sources)} sources")
    elif not file.planes:
        lines.append("  nothing that jaxdeblend reads: no IMAGE, VARIANCE or MASK")
    return "\n".join(lines)


def _short(hdu: fits.PrimaryHDU) -> str:
    name = hdu.name or "(unnamed)"
    shape = "x".join(str(n) for n in getattr(hdu, "shape", ()) or ())
    return f"{name} {shape}".strip()


def _bands(names: list[str]) -> tuple[str, ...]:
    """What follows IMAGE_ and the like in the names of extensions."""
    starts = ("IMAGE_", "SCI_", "VARIANCE_", "VAR_", "MASK_")
    found = [name.split()[0][len(start) :] for name in names for start in starts if name.startswith(start)]
    return tuple(dict.fromkeys(found))


def _plane_lines(file: FilePlanes, plane: Plane, bad_mask: Sequence[str | int] | None) -> list[str]:
    name = plane.role if plane.band == "*" else f"{plane.role} {plane.band}"
    if plane.role == "mask":
        return [f"{name:<12} {_mask_text(file, plane, bad_mask)}"]
    data = plane.data
    finite = np.isfinite(data)
    typical = f"median {np.median(data[finite]):.4g}" if finite.any() else "no finite value"
    text = f"{data.dtype}, {typical}"
    if not finite.all():
        text += f", {100 * np.mean(~finite):.2g}% NaN or infinite"
    if plane.role == "weight":
        text += f", {100 * np.mean(data[finite] <= 0):.2g}% zero (masked)"
    lines = [f"{name:<12} {text}"]
    if plane.role == "image":
        lines += [f"{label:<12} {value}" for label, value in _image_facts(plane, data).items()]
    return lines


def _image_facts(plane: Plane, data: np.ndarray) -> dict[str, str]:
    facts = {"unit": str(plane.header.get("BUNIT", "not given (no BUNIT)"))}
    band = next((plane.header[key] for key in ("FILTER", "BAND") if key in plane.header), None)
    if band is not None:
        facts["band"] = str(band)
    psf = _psf_text(data)
    if psf is not None:
        return facts | {"psf": psf}
    if plane.wcs is None:
        return facts | {"pixel scale": "unknown (no celestial WCS)"}
    scale = np.sqrt(plane.wcs.proj_plane_pixel_area().to_value("arcsec2"))
    ra, dec = plane.wcs.pixel_to_world_values((data.shape[-1] - 1) / 2, (data.shape[-2] - 1) / 2)
    return facts | {
        "pixel scale": f"{scale:.4g} arcsec",
        "centre": f"RA {float(ra):.6f}, Dec {float(dec):+.6f} deg",
    }


def _psf_text(data: np.ndarray) -> str | None:
    """Width of a PSF stamp; None if the image is too large for one or not brightest in the middle."""
    if max(data.shape[-2:]) > LARGEST_PSF or not np.isfinite(data).all():
        return None
    stamps = data.reshape(-1, *data.shape[-2:])
    peaks = [np.unravel_index(np.argmax(stamp), stamp.shape) for stamp in stamps]
    middle = (np.array(data.shape[-2:]) - 1) / 2
    if any(np.abs(np.array(peak) - middle).max() > 1.5 for peak in peaks) or not (stamps.sum((1, 2)) > 0).all():
        return None
    if any(edge % 2 == 0 for edge in data.shape[-2:]):
        return f"looks like a PSF, but its edges {data.shape[-2:]} are even: resample it to odd edges"
    widths = np.asarray(ImagePSF(stamps.astype(np.float32)).fwhm())
    sums = stamps.sum((1, 2), dtype=float)
    return f"FWHM {', '.join(f'{w:.2f}' for w in widths)} px; sum {', '.join(f'{s:.4g}' for s in sums)}"


def _mask_text(file: FilePlanes, plane: Plane, bad_mask: Sequence[str | int] | None) -> str:
    planes, bits = mask_planes(plane.header), as_bits(plane.data)
    kind = None if planes else mask_kind_of(plane.header, file.primary)
    if kind is not None:
        known = mask_bits(kind)
        planes = dict(known.planes)
        bad_mask = known.bad if bad_mask is None else bad_mask
    text = f"{100 * np.mean(any_of(bits, bad_pattern(file.path, planes, bad_mask))):.2g}% masked"
    if not planes:
        return f"{text} (no named planes: any bit counts)" if bad_mask is None else text
    shares = {name: 100 * np.mean(any_of(bits, 1 << bit)) for name, bit in planes.items()}
    listed = ", ".join(f"{name} {share:.2g}%" for name, share in shares.items() if share > 0)
    return f"{text}; planes with pixels: {listed or 'none'}"


@click.command("info")
@click.argument("files", nargs=-1, required=True)
@click.option("--bad-mask", help="Mask planes or bit numbers to count as bad: SAT,BAD or 1,5.")
@common_options
def info_command(files: tuple[str, ...], bad_mask: str | None) -> int:
    """Show what FITS files hold: extensions, units, pixel scale, masked pixels, PSF width.

    \b
    Example:
      jaxdeblend info coadd_g.fits psf_g.fits
    """  # noqa: D301
    bad = None if bad_mask is None else bits_or_names(bad_mask.split(","))
    for path in files:
        click.echo(describe(path, bad))
    return 0
