"""Mask bits of surveys whose headers do not name them."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MaskBits:
    """Bits of the masks of one survey or instrument.

    Attributes
    ----------
    planes
        Number of the bit of each plane.
    bad
        Planes whose pixels are not used.
    """

    planes: Mapping[str, int]
    bad: tuple[str, ...]


def _numbered(names: str) -> dict[str, int]:
    """Bits in their order, from 0; a dash stands for a bit that has no meaning."""
    return {name: bit for bit, name in enumerate(names.split()) if name != "-"}


# jwst-pipeline.readthedocs.io, "Data quality flags". Bit 0 sums up what makes a pixel unusable: a pixel with a jump, or
# one that saturates late in its ramp, has a good flux.
_JWST = MaskBits(
    _numbered(
        "DO_NOT_USE SATURATED JUMP_DET DROPOUT OUTLIER PERSISTENCE AD_FLOOR CHARGELOSS UNRELIABLE_ERROR NON_SCIENCE "
        "DEAD HOT WARM LOW_QE RC TELEGRAPH NONLINEAR BAD_REF_PIXEL NO_FLAT_FIELD NO_GAIN_VALUE NO_LIN_CORR "
        "NO_SAT_CHECK UNRELIABLE_BIAS UNRELIABLE_DARK UNRELIABLE_SLOPE UNRELIABLE_FLAT OPEN ADJ_OPEN FLUX_ESTIMATED "
        "MSA_FAILED_OPEN OTHER_BAD_PIXEL REFERENCE_PIXEL"
    ),
    ("DO_NOT_USE",),
)

# roman-pipeline.readthedocs.io, "Data quality (DQ) flags": as JWST, but for some bits.
_ROMAN = MaskBits(
    _numbered(
        "DO_NOT_USE SATURATED JUMP_DET DROPOUT GW_AFFECTED_DATA PERSISTENCE AD_FLOOR OUTLIER UNRELIABLE_ERROR "
        "NON_SCIENCE DEAD HOT WARM LOW_QE - TELEGRAPH NONLINEAR BAD_REF_PIXEL NO_FLAT_FIELD NO_GAIN_VALUE NO_LIN_CORR "
        "NO_SAT_CHECK UNRELIABLE_BIAS UNRELIABLE_DARK UNRELIABLE_SLOPE UNRELIABLE_FLAT - - UNRELIABLE_RESET - "
        "OTHER_BAD_PIXEL REFERENCE_PIXEL"
    ),
    ("DO_NOT_USE",),
)

# ACS and WFC3 Data Handbooks, "Data quality flags". Warm pixels are corrected well enough to be used.
_HST_CCD_BAD = "LOST FILLED BADPIX MASKED HOT UNSTABLE BADCOL SATURATED BADREF TRAP ATODSAT CRDRIZ CRREJ USER"
_HST_CCD = MaskBits(
    _numbered("LOST FILLED BADPIX MASKED HOT UNSTABLE WARM BADCOL SATURATED BADREF TRAP ATODSAT CRDRIZ CRREJ USER"),
    tuple(_HST_CCD_BAD.split()),
)

# WFC3 Data Handbook: of the infrared channel, cosmic rays (bit 13) are taken out of the ramp, and sources that are
# bright in the zeroth read (bit 11) have good fluxes.
_HST_IR = MaskBits(
    _numbered("LOST FILLED BADPIX BADZERO HOT UNSTABLE WARM BADREFPIX SATURATED BLOB - ZEROSIG CRDRIZ CRREJ"),
    tuple("LOST FILLED BADPIX BADZERO HOT UNSTABLE BADREFPIX SATURATED BLOB CRDRIZ".split()),
)

# Euclid Data Product Description Document, "VIS Flag Map Product". INVALID sums up the pixels of arbitrary values.
_EUCLID_VIS = MaskBits(
    _numbered(
        "INVALID HOT COLD SAT COSMIC GHOST QUADEDGE BAD_COLUMN BAD_CLUSTER CR_REGION - - OVRCOL EXTOBJ SCATLIGHT "
        "CHARINJ - SATXTALKGHOST STARSIGNAL SATURATEDSTAR CTICORRECTION ADCMAX NO_DATA STITCHBLOCK OBJECTS"
    ),
    tuple("INVALID HOT COLD SAT COSMIC BAD_COLUMN BAD_CLUSTER OVRCOL ADCMAX NO_DATA".split()),
)

# The other instruments and the mosaics of Euclid share bit 0 alone with VIS.
_EUCLID = MaskBits({"INVALID": 0}, ("INVALID",))

# DESDM mask bits (Morganson et al. 2018, PASP 130, 074501, table 9). Halos of bright stars (STAR), pixels that were
# repaired (INTERP, FIXED), and those near an edge have data.
_DES = MaskBits(
    _numbered(
        "BPM SATURATE INTERP BADAMP CRAY STAR TRAIL EDGEBLEED SSXTALK EDGE STREAK SUSPECT FIXED NEAREDGE TAPEBUMP"
    ),
    tuple("BPM SATURATE BADAMP CRAY TRAIL EDGEBLEED SSXTALK EDGE STREAK".split()),
)

# legacysurvey.org, "Bitmasks": bits of the files anymask and allmask.
_LEGACY_DQ = MaskBits(
    _numbered("BADPIX SATUR INTERP - CR - BLEED TRANS EDGE EDGE2 - OUTLIER"),
    tuple("BADPIX SATUR INTERP CR BLEED TRANS EDGE EDGE2 OUTLIER".split()),
)

# legacysurvey.org, "Bitmasks", MASKBITS of DR9 and DR10.
_LEGACY_PLANES = _numbered(
    "NPRIMARY BRIGHT SATUR_G SATUR_R SATUR_Z ALLMASK_G ALLMASK_R ALLMASK_Z WISEM1 WISEM2 BAILOUT MEDIUM GALAXY CLUSTER "
    "SATUR_I ALLMASK_I SUB_BLOB"
)

MASK_KINDS = ("jwst", "roman", "hst", "hst-ir", "euclid", "euclid-vis", "des", "legacy", "legacy-dq", "any")
"""Surveys whose bits a mask can be said to have; of ``any``, every bit makes a pixel unusable."""

_TABLES = {
    "jwst": _JWST,
    "roman": _ROMAN,
    "hst": _HST_CCD,
    "hst-ir": _HST_IR,
    "euclid": _EUCLID,
    "euclid-vis": _EUCLID_VIS,
    "des": _DES,
    "legacy-dq": _LEGACY_DQ,
}

_LEGACY_NAMES = {"SATUR": "SAT", "ALLMASK": "ALLMASK"}
"""Planes of single bands of the Legacy Surveys, and what they are called where headers name them."""


def mask_bits(kind: str, band: str | None = None) -> MaskBits:
    """Bits of the masks of a survey.

    Parameters
    ----------
    kind
        One of `MASK_KINDS`.
    band
        Band for which planes of single bands are wanted.

    Returns
    -------
    MaskBits
        The bits; of ``any``, none.

    Raises
    ------
    ValueError
        If the survey is not known.

    Examples
    --------
    >>> mask_bits("jwst").planes["JUMP_DET"], mask_bits("jwst").bad
    (2, ('DO_NOT_USE',))
    >>> mask_bits("legacy", "r").planes["SAT"]
    3
    """
    if kind not in MASK_KINDS:
        raise ValueError(f"mask_kind: got {kind!r}; give one of {', '.join(MASK_KINDS)}.")
    if kind == "legacy":
        return _legacy(band)
    return _TABLES.get(kind, MaskBits({}, ()))


def mask_kind_of(*headers: Any) -> str | None:
    """Survey of a mask, by the headers of the mask, of the image and of their files; None if they do not say.

    Examples
    --------
    >>> mask_kind_of({}, {"TELESCOP": "JWST"}), mask_kind_of({"TELESCOP": "HST", "INSTRUME": "ACS"}), mask_kind_of({})
    ('jwst', 'hst', None)
    """
    telescope, instrument, detector, kind = (
        next((str(header[key]).strip().upper() for header in headers if key in header), "")
        for key in ("TELESCOP", "INSTRUME", "DETECTOR", "IMTYPE")
    )
    if kind == "MASKBITS":
        return "legacy"
    if kind.startswith(("ALLMASK", "ANYMASK")):
        return "legacy-dq"
    if telescope in ("JWST", "ROMAN"):
        return telescope.lower()
    if telescope == "HST" and instrument in ("ACS", "WFC3"):
        return "hst-ir" if detector == "IR" else "hst"
    if telescope == "EUCLID":
        return "euclid-vis" if instrument == "VIS" else "euclid"
    if any("DES_EXT" in header or "DESFNAME" in header for header in headers):
        return "des"
    return None


def warn_of_unnamed_bits(label: str, band: str, share: float) -> None:
    """Log a warning if bits without names mask many pixels.

    Parameters
    ----------
    label
        File of the mask.
    band
        Its band.
    share
        Share of the pixels that have any bit.
    """
    if share > MANY_MASKED:
        logger.warning(
            "%s: bits that have no names mask %.0f %% of band %s, since any bit counts; say which make a pixel "
            "unusable (bad_mask, --bad-mask), or whose bits they are (mask_kind, --mask-kind).",
            label,
            100 * share,
            band,
        )


MANY_MASKED = 0.1
"""Share of pixels masked by bits without names that is worth a warning."""


def _legacy(band: str | None) -> MaskBits:
    """Planes of one band under the names that they have where headers name them."""
    planes = {name: bit for name, bit in _LEGACY_PLANES.items() if not name.startswith(tuple(_LEGACY_NAMES))}
    for start, name in _LEGACY_NAMES.items():
        key = f"{start}_{(band or '').upper()}"
        if key in _LEGACY_PLANES:
            planes[name] = _LEGACY_PLANES[key]
    return MaskBits(planes, ("SAT", "ALLMASK"))
