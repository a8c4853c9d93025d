"""Kernel coefficients against those of HOTPANTS; one JSON line for each case.

    python -m benchmarks.hotpants
    python -m benchmarks.hotpants path/to/oracle.json

The JSON states its conventions in words (``convention``), from which the edges and the width of the Gaussian are read;
``hotpants_template.fits`` and ``hotpants_science.fits`` lie beside it. The exit status is 1 if any coefficient of any
case is off by more than 1e-5: the tables have six decimals.
"""

import argparse
import json
import pathlib
import re
import sys

import jax
import numpy as np
from astropy.io import fits

from jaxdeblend.ops import polynomials
from jaxdeblend.psf_match.basis import gaussian_basis
from jaxdeblend.psf_match.linear import JointFit, fit_joint

from .data import SHARED

TOLERANCE = 1e-5
"""Largest difference of a coefficient that passes."""


def cut_out(image: np.ndarray, centers: np.ndarray, edge: int) -> np.ndarray:
    """Stamps of an image.

    Parameters
    ----------
    image
        Image.
    centers
        Central pixels (x, y).
    edge
        Odd edge.

    Returns
    -------
    np.ndarray
        Stamps (stamp, y, x).
    """
    half = edge // 2
    return np.stack([image[y - half : y + half + 1, x - half : x + half + 1] for x, y in centers])


def stated(convention: list[str], pattern: str) -> float:
    """The number that a convention states where the pattern has a group."""
    found = re.search(pattern, " ".join(convention))
    if found is None:
        raise SystemExit(f"convention: found nothing that reads {pattern!r}; give a JSON that states it.")
    return float(found[1])


def replay(case: dict, convention: list[str], template: np.ndarray, science: np.ndarray) -> JointFit:
    """Fit the kernel of one case.

    Parameters
    ----------
    case
        Orders, stamps and expected coefficients.
    convention
        What the JSON states.
    template, science
        Images; the first is convolved.

    Returns
    -------
    JointFit
        Coefficients in the order of HOTPANTS, in double precision.
    """
    edge, size = (int(stated(convention, rf"{what} (\d+)x\d+")) for what in ("kernel", "stamps"))
    n_terms = len(case["kernel_coefficients"])
    degree = next(degree for degree in range(n_terms) if polynomials.n_terms(degree) >= n_terms)
    centers = np.asarray(case["stamp_centres_xy"])
    half = np.array(template.shape) / 2
    y, x = ((centers[:, ::-1] - half) / half).T
    with jax.enable_x64(True):
        basis = gaussian_basis(edge, [stated(convention, r"sigma ([\d.]+)")], [degree], ordering="hotpants")
        terms = [polynomials.terms(y, x, case[f"spatial_{of}_order"]) for of in ("kernel", "background")]
        stamps = [cut_out(image, centers, size) for image in (template, science)]
        return fit_joint(basis, *stamps, None, *terms, region="valid")


def compare(path: pathlib.Path) -> list[dict]:
    """One line for each case of an oracle."""
    oracle = json.loads(path.read_text(encoding="utf-8"))
    template, science = (
        fits.getdata(path.parent / f"hotpants_{name}.fits", 1).astype(np.float64) for name in ("template", "science")
    )
    lines = []
    for name, case in oracle["cases"].items():
        fit = replay(case, oracle["convention"], template, science)
        expected = np.asarray(case["kernel_coefficients"]).reshape(fit.coefficients.shape)
        background = np.asarray(case["background_coefficients"])
        lines.append(
            {
                "case": name,
                "n_stamps": len(case["stamp_centres_xy"]),
                "spatial_kernel_order": case["spatial_kernel_order"],
                "spatial_background_order": case["spatial_background_order"],
                "max_abs_kernel": float(np.abs(np.asarray(fit.coefficients) - expected).max()),
                "max_abs_background": float(np.abs(np.asarray(fit.background) - background).max()),
            }
        )
    return lines


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = SHARED / "hotpants_oracle.json"
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=default, help="JSON with the expected tables")
    lines = compare(parser.parse_args(argv).path)
    for line in lines:
        print(json.dumps(line))
    if max(line[key] for line in lines for key in ("max_abs_kernel", "max_abs_background")) > TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    main()
