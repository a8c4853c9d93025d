"""The configuration of a catalog run, and its way into TOML and back."""

import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..detection.detection import METHODS
from ..fitting import Initialization, ProximalAdam
from ..io import PathLike
from ..io.reading import reading
from ..model.constraint import SparseThreshold
from ..model.prior import SymmetricPrior


@dataclasses.dataclass(frozen=True)
class DeblendConfig:
    """How `jaxdeblend.deblend_catalog` finds, fits and skips.

    Limits of 0 are none. A blend beyond a limit is not fitted: its rows have the flag ``NOT_DEBLENDED`` and say why. By
    default nothing is skipped, and parents that are too large for one fit are cut in pieces.

    Parameters
    ----------
    threshold
        Significance from which a peak counts as a source, in σ.
    detection
        ``"chi2"``: peaks of all bands together. ``"merge"``: of each band, merged. ``"starlet"``: of all bands together
        at several scales. See `jaxdeblend.detect`.
    relative_error
        A fit ends when its loss can be expected to fall by less than this fraction.
    max_iter, min_iter
        Most steps of a fit, and fewest.
    set_spectra
        Whether spectra are solved for exactly, all of a fit together, when it has ended; otherwise they are left where
        its steps brought them.
    max_spectrum_cutoff
        They are not where the number of sources of a fit times the area of its window in pixels reaches this.
    process_singles
        Whether sources that are alone in their parent are fitted.
    max_components
        1, or 2 to split bright sources into a bulge and a disk.
    background_thresh
        Pixels of a model that are fainter than this many σ of the background in every band are dark.
    symmetry
        Whether there is a prior that galaxies are nearly symmetric.
    point_below
        Sources of lower S/N are point sources.
    two_above
        Sources of higher S/N may get two components.
    max_number_of_peaks
        Most peaks of a parent.
    max_footprint_area
        Largest area in pixels of the rectangle around the footprint of a parent.
    max_area_times_peaks
        Largest product of that area and the number of peaks.
    max_footprint_size
        Longest edge of that rectangle in pixels.
    min_footprint_axis_ratio
        Smallest ratio of the axes of a footprint, from its second moments; satellite trails have a small one.
    bad_mask
        Names of the mask planes whose pixels are not used; None: as the exposure was read.
    mask_limits
        Largest fraction of a footprint's pixels that may have the bit of a plane in any band, by the plane's name.
    pseudo_columns
        Columns of a table of positions, true for positions that are no sources, such as those of empty sky. They are
        never deblended. Columns that the table does not have do not matter.
    catch_failures
        Whether a blend that fails with an error is recorded, and the others go on.
    split_valley
        Sources that touch are fitted in pieces of their own, each with those whose light reaches into it, where the
        signal-to-noise ratio between them falls below this fraction of the lower peak; see
        `jaxdeblend.detection.sub_blends`. 0: all sources of a parent are fitted together.
    max_sources_per_piece
        Largest number of sources that are fitted together; a parent with more is cut in pieces.
    max_window
        Longest edge in pixels of the window of a fit; a larger parent is cut in pieces.
    max_memory
        Gigabytes that fits may take at a time; pieces are cut so that each needs no more. 0: half of the memory of the
        accelerator or of the machine, whatever the pieces.

    Raises
    ------
    ValueError
        If a value is out of its range.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> config = jd.DeblendConfig.measure(max_number_of_peaks=600, mask_limits={"SAT": 0.5})
    >>> config.relative_error, jd.DeblendConfig.from_toml(config.to_toml()) == config
    (0.0001, True)
    """

    threshold: float = 5.0
    detection: str = "chi2"
    relative_error: float = 1e-3
    max_iter: int = 150
    min_iter: int = 0
    set_spectra: bool = True
    max_spectrum_cutoff: int = 0
    process_singles: bool = True
    max_components: int = 2
    background_thresh: float = 0.2
    symmetry: bool = True
    point_below: float = 0.0
    two_above: float = 300.0
    max_number_of_peaks: int = 0
    max_footprint_area: int = 0
    max_area_times_peaks: int = 0
    max_footprint_size: int = 0
    min_footprint_axis_ratio: float = 0.0
    bad_mask: tuple[str, ...] | None = None
    mask_limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pseudo_columns: tuple[str, ...] = ("merge_peak_sky", "sky_source")
    catch_failures: bool = True
    split_valley: float = 0.2
    max_sources_per_piece: int = 64
    max_window: int = 256
    max_memory: float = 0.0

    def __post_init__(self):
        for name, (good, wanted) in _ranges(self).items():
            if not good:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; give {wanted}.")

    @classmethod
    def redistribute(cls, **changes: Any) -> "DeblendConfig":
        """For models that only divide the image among the sources: fits end at 1e-3.

        Parameters
        ----------
        **changes
            Fields that shall be different.
        """
        return cls(**{"relative_error": 1e-3, "max_iter": 150} | changes)

    @classmethod
    def measure(cls, **changes: Any) -> "DeblendConfig":
        """For models on which fluxes and shapes are measured: fits end at 1e-4, and may take twice as many steps.

        Parameters
        ----------
        **changes
            Fields that shall be different.
        """
        return cls(**{"relative_error": 1e-4, "max_iter": 300} | changes)

    @classmethod
    def from_toml(cls, source: PathLike) -> "DeblendConfig":
        """Read a configuration; what is not in it keeps its default.

        Parameters
        ----------
        source
            A file; or the text itself, if it is empty or has a ``=``.

        Raises
        ------
        ValueError
            If it is not TOML, a key is unknown, or a value is of another type or out of its range.
        FileNotFoundError
            If the file does not exist.

        Examples
        --------
        >>> import jaxdeblend as jd
        >>> jd.DeblendConfig.from_toml("max_iter = 40").max_iter
        40
        """
        if isinstance(source, str) and ("=" in source or not source.strip()):
            return cls(**_values(_parsed(source)))
        path = Path(source)
        with reading(path, "TOML file", allow_empty=True):
            text = path.read_text(encoding="utf-8")
            try:
                return cls(**_values(_parsed(text)))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error

    def to_toml(self) -> str:
        """Write all fields as text, but for those that are None.

        Examples
        --------
        >>> import jaxdeblend as jd
        >>> 'mask_limits = {"SAT" = 0.5}' in jd.DeblendConfig(mask_limits={"SAT": 0.5}).to_toml()
        True
        """
        fields = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None]
        return "".join(f"{name} = {_toml(getattr(self, name))}\n" for name in fields)

    def optimizer(self) -> ProximalAdam:
        """Settings of the optimizer."""
        return ProximalAdam(
            max_steps=self.max_iter,
            relative_tolerance=self.relative_error,  # pyright: ignore[reportArgumentType]
            min_steps=self.min_iter,  # pyright: ignore[reportArgumentType]
            exact_spectra=self.set_spectra,  # pyright: ignore[reportArgumentType]
        )

    @property
    def memory(self) -> float | None:
        """Bytes that fits may take at a time, None if that is left to the batch engine."""
        return 1e9 * self.max_memory or None

    def solves_spectra(self, n_sources: int, shape: tuple[int, int]) -> bool:
        """Whether the spectra of so many sources in a window of this shape are solved for exactly.

        Examples
        --------
        >>> import jaxdeblend as jd
        >>> config = jd.DeblendConfig(max_spectrum_cutoff=10_000)
        >>> config.solves_spectra(2, (64, 64)), config.solves_spectra(3, (64, 64))
        (True, False)
        """
        cutoff = self.max_spectrum_cutoff
        return self.set_spectra and (cutoff == 0 or n_sources * shape[0] * shape[1] < cutoff)

    def initialization(self) -> Initialization:
        """How sources begin, and under which priors they are fitted."""
        sparse = SparseThreshold(self.background_thresh)  # pyright: ignore[reportArgumentType]
        usual = Initialization().constraints
        return Initialization(
            constraints=tuple(sparse if isinstance(one, SparseThreshold) else one for one in usual),
            priors=(SymmetricPrior(0.2, 0.5),) if self.symmetry else (),
            max_components=self.max_components,
            point_below=self.point_below,  # pyright: ignore[reportArgumentType]
            two_above=self.two_above,  # pyright: ignore[reportArgumentType]
        )


def _ranges(config: DeblendConfig) -> dict[str, tuple[bool, str]]:
    """Whether each value is in its range, and what that is."""
    limits = (
        "max_spectrum_cutoff",
        "max_number_of_peaks",
        "max_footprint_area",
        "max_area_times_peaks",
        "max_footprint_size",
    )
    fractions = config.mask_limits.values()
    return {
        "threshold": (0 < config.threshold < math.inf, "a positive number of sigma"),
        "detection": (config.detection in METHODS, f"one of {METHODS}"),
        "relative_error": (0 < config.relative_error < 1, "a fraction between 0 and 1"),
        "max_iter": (config.max_iter >= 1, "at least 1"),
        "min_iter": (0 <= config.min_iter <= config.max_iter, f"0 to max_iter, which is {config.max_iter}"),
        "max_components": (config.max_components in (1, 2), "1, or 2 for bulge and disk"),
        "background_thresh": (0 <= config.background_thresh < math.inf, "a number of sigma, or 0 for none"),
        "min_footprint_axis_ratio": (0 <= config.min_footprint_axis_ratio <= 1, "a ratio between 0 and 1"),
        "mask_limits": (all(0 <= fraction <= 1 for fraction in fractions), "fractions between 0 and 1"),
        "split_valley": (0 <= config.split_valley <= 1, "a fraction between 0 and 1"),
        "max_sources_per_piece": (config.max_sources_per_piece >= 1, "at least 1"),
        "max_window": (config.max_window >= 32, "at least 32 pixels"),
        "max_memory": (0 <= config.max_memory < math.inf, "a number of gigabytes, or 0 for no limit of your own"),
    } | {name: (getattr(config, name) >= 0, "a positive number, or 0 for no limit") for name in limits}


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"not readable as TOML ({error}).") from error


def _values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the fields, checked to be of their types."""
    defaults = {field.name: getattr(DeblendConfig(), field.name) for field in dataclasses.fields(DeblendConfig)}
    for key in given:
        if key not in defaults:
            nearest = difflib.get_close_matches(key, defaults, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown key {key!r}; did you mean {nearest!r}? Known are {', '.join(defaults)}.")
    return {key: _converted(key, value, defaults[key]) for key, value in given.items()}


def _converted(key: str, value: Any, default: Any) -> Any:
    """A value of TOML as the type of the field; 1e9 is a whole number, true is no number."""
    number = type(value) in (int, float)
    match default:
        case bool():
            good, wanted, make = isinstance(value, bool), "true or false", bool
        case int():
            good, wanted, make = number and float(value).is_integer(), "a whole number", int
        case float():
            good, wanted, make = number, "a number", float
        case str():
            good, wanted, make = isinstance(value, str), "text", str
        case dict():
            good, wanted, make = _all(value, dict, (int, float)), "a table of numbers", _fractions
        case _:
            good, wanted, make = _all(value, list, (str,)), "a list of names", tuple
    if not good:
        raise ValueError(f"{key}: got {value!r}; give {wanted}.")
    return make(value)


def _all(values: Any, kind: type, kinds: tuple[type, ...]) -> bool:
    """Whether it is a list or a table of values of these types."""
    return isinstance(values, kind) and all(
        type(one) in kinds for one in (values.values() if isinstance(values, dict) else values)
    )


def _fractions(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(one) for name, one in values.items()}


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)} = {number!r}" for name, number in value.items()) + "}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
