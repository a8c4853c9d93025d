"""Options that commands share, and how they become objects."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np

from ..instrument.psf import AbstractPSF, GaussianPSF, MoffatPSF
from ..instrument.psf_field import AbstractPSFField, ConstantPSFField
from ..io import MASK_KINDS, NOISE_KINDS, Exposure, open_exposure, read_psf_field
from ..io.exposure_files import STAND_IN_PSF


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Files and options from which an exposure is read."""

    images: tuple[str, ...]
    bands: tuple[str, ...]
    psf: tuple[str, ...] = ()
    psf_fwhm: tuple[float, ...] = ()
    psf_model: str = "moffat"
    bad_mask: tuple[str | int, ...] | None = None
    variance: str | None = None
    weight: str | None = None
    rms: str | None = None
    exposure_time: str | None = None
    noise_kind: str | None = None
    mask: str | None = None
    mask_kind: str | None = None
    psf_error: tuple[float, ...] = ()

    def read(self) -> Exposure:
        """Read the exposure."""
        self._check_psf()
        exposure = open_exposure(
            self.images,
            bands=self.bands,
            psf=STAND_IN_PSF,
            bad_mask=self.bad_mask,
            variance=self.variance,
            weight=self.weight,
            rms=self.rms,
            exposure_time=self.exposure_time,
            noise_kind=self.noise_kind,
            mask=self.mask,
            mask_kind=self.mask_kind,
            psf_error=self.psf_error or 0.0,
        )
        return exposure.with_psf(self.read_psf(exposure.pixel_scale)).read()

    def read_psf(self, pixel_scale: float | None = None) -> AbstractPSF | AbstractPSFField:
        """Read the PSF, or make it from its widths. Oversampled stamps are known by the pixel scale of the images."""
        self._check_psf()
        if self.psf:
            field = read_psf_field(self.psf, self.bands, pixel_scale=pixel_scale)
            return field.psf if isinstance(field, ConstantPSFField) else field
        return psf_of_widths("--psf-fwhm", self.psf_fwhm, self.psf_model, self.bands)

    def _check_psf(self) -> None:
        """The PSF must be given in one way, which is known before any file is read."""
        if bool(self.psf) == bool(self.psf_fwhm):
            raise click.UsageError("give the PSF, either as files by --psf or as widths by --psf-fwhm.")
        if self.psf_fwhm:
            psf_of_widths("--psf-fwhm", self.psf_fwhm, self.psf_model, self.bands)


def psf_of_widths(option: str, widths: Sequence[float], model: str, bands: Sequence[str]) -> AbstractPSF:
    """Profiles of these FWHM.

    Parameters
    ----------
    option
        Name of the option, for error messages.
    widths
        FWHM in pixels, one or one per band.
    model
        ``"moffat"``, of β = 3, or ``"gaussian"``.
    bands
        Names of the bands.

    Returns
    -------
    AbstractPSF
        The PSF.
    """
    if len(widths) not in (1, len(bands)):
        raise click.UsageError(f"{option}: got {len(widths)} widths for {len(bands)} bands; give one, or one per band.")
    if model == "moffat":
        return MoffatPSF(widths)
    return GaussianPSF(np.array(widths) / (2 * np.sqrt(2 * np.log(2))))


class Names(click.ParamType):
    """Comma-separated names."""

    name = "list"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, ...]:
        """Split at commas."""
        names = value if isinstance(value, tuple) else str(value).split(",")
        found = tuple(str(name).strip() for name in names if str(name).strip())
        if not found:
            self.fail(f"{value!r} names nothing; give one name, or several such as g,r,i.", param, ctx)
        return found


class Numbers(click.ParamType):
    """Comma-separated numbers."""

    name = "numbers"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Split at commas."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(number) for number in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 4.1,3.9,3.5.", param, ctx)


class Shard(click.ParamType):
    """The i-th of n parts."""

    name = "i/n"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Split at the slash."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split("/")
        if len(parts) != 2 or not all(part.isdecimal() for part in parts) or not 1 <= int(parts[0]) <= int(parts[1]):
            self.fail(f"{value!r} is no part of a whole such as 2/8.", param, ctx)
        return int(parts[0]), int(parts[1])


def exposure_options(command: Callable) -> Callable:
    """Add the options of `Inputs` to a command."""
    return add_options(_exposure_options(required=True), command)


def optional_exposure_options(command: Callable) -> Callable:
    """Add the options of `Inputs` to a command that can do without."""
    return add_options(_exposure_options(required=False), command)


def _exposure_options(*, required: bool) -> list[Callable]:
    return [
        click.argument("images", nargs=-1, required=required),
        click.option("--bands", type=Names(), required=required, help="Names of the bands, in order: g,r,i."),
        click.option(
            "--psf",
            type=Names(),
            help="PSF stamps: a file per band, 'psf_{band}.fits', or one cube; or .psf files of PSFEx.",
        ),
        click.option("--psf-fwhm", type=Numbers(), help="Instead of --psf: its FWHM in pixels, one or one per band."),
        click.option(
            "--psf-model",
            type=click.Choice(["moffat", "gaussian"]),
            default="moffat",
            show_default=True,
            help="Profile of a PSF given by --psf-fwhm (Moffat: beta 3).",
        ),
        click.option(
            "--psf-error",
            type=Numbers(),
            help="Error of the PSF as a fraction of the light of a pixel, one or one per band: 0.005.  [default: 0]",
        ),
        click.option(
            "--bad-mask",
            type=Names(),
            help="Mask planes or bits not to use: SAT,BAD or 1,5.  [default: BAD, NO_DATA, SAT, SUSPECT, "
            "EDGE ... where the mask names its planes, else any bit]",
        ),
        click.option("--variance", help="Variance from these files: 'var_{band}.fits'."),
        click.option("--weight", help="Weights (1 / variance) from these files: 'invvar_{band}.fits'."),
        click.option("--rms", help="Standard deviations from these files: 'rms_{band}.fits'."),
        click.option(
            "--exposure-time",
            help="Exposure times from these files: 'exp_{band}.fits'. The noise is measured, and goes with their root.",
        ),
        click.option(
            "--noise-kind",
            type=click.Choice(NOISE_KINDS),
            help="What the noise planes in the images' files are, whatever their names.",
        ),
        click.option(
            "--mask-kind",
            type=click.Choice(MASK_KINDS),
            help="Survey whose bits the masks have.  [default: what the headers say]",
        ),
        click.option("--mask", help="Masks from these files: 'mask_{band}.fits', or one for all bands."),
    ]


def catalog_options(command: Callable) -> Callable:
    """Add what the commands have that write a catalog: where its sources are, and what the file is."""
    return add_options(
        [
            *peaks_options(),
            click.option(
                "--threshold", type=float, default=5.0, show_default=True, help="Detection threshold in sigma."
            ),
            click.option(
                "--format",
                "kind",
                type=click.Choice(["ecsv", "fits", "parquet"]),
                default="ecsv",
                show_default=True,
                help="Format of the catalog.",
            ),
            click.option("--overwrite", is_flag=True, help="Replace files of an earlier run."),
        ],
        command,
    )


def peaks_options(
    option: str = "--peaks",
    explanation: str = "Table of positions, instead of detecting them.",
    *,
    required: bool = False,
) -> list[Callable]:
    """Options of a table of positions.

    Parameters
    ----------
    option
        Name of the option of the table.
    explanation
        What it is for.
    required
        Whether it must be given.
    """
    return [
        click.option(option, type=click.Path(path_type=Path), required=required, help=explanation),
        click.option(
            "--origin",
            type=click.IntRange(0, 1),
            help=f"Number of the first pixel in {option}.  [default: 1 for SExtractor's columns, else 0]",
        ),
        click.option(
            "--columns",
            metavar="Y,X",
            help=f"Columns of {option}: Y,X in pixels, or ra=NAME,dec=NAME.  [default: found by well-known names]",
        ),
    ]


def common_options(command: Callable) -> Callable:
    """Add what every command has."""
    return add_options(
        [click.option("--debug", is_flag=True, expose_value=False, help="Show more messages, and tracebacks.")],
        command,
    )


def output_options(default: str) -> Callable[[Callable], Callable]:
    """Add the options of commands that write a folder."""
    options = [
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path, file_okay=False),
            default=default,
            show_default=True,
            help="Folder to write to.",
        ),
        click.option("--no-pictures", is_flag=True, help="Draw no picture."),
    ]
    return lambda command: add_options(options, command)


def inputs(given: dict[str, object]) -> Inputs:
    """Take the options of `Inputs` out of the parameters of a command."""
    names = [field.name for field in dataclasses.fields(Inputs)]
    values = {name: given.pop(name) for name in names if name in given}
    bad = values.get("bad_mask")
    values["bad_mask"] = None if bad is None else bits_or_names(bad)  # type: ignore[arg-type]
    values["psf"], values["psf_fwhm"] = values.get("psf") or (), values.get("psf_fwhm") or ()
    values["psf_error"] = values.get("psf_error") or ()
    return Inputs(**values)  # type: ignore[arg-type]


def bits_or_names(values: Sequence[str]) -> tuple[str | int, ...]:
    """Tell numbers of bits from names of planes."""
    return tuple(int(value) if value.isdigit() else value for value in values)


def add_options(options: Sequence[Callable], command: Callable) -> Callable:
    """Add options to a command, in this order."""
    for option in reversed(options):
        command = option(command)
    return command
