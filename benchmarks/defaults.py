"""Why the defaults are what they are: each changed alone, against known truth.

    python -m benchmarks.defaults --set btk_lsst_dev --set asymmetric.npz --output defaults.md

One JSON line for each variation and set, and in the end a table: median and share of failures of the fluxes, and how
many steps they took. Differences of one source in the share of failures are noise.
"""

import argparse
import json
import pathlib

import jaxdeblend as jd

from .data import find
from .metrics import load_truth_set
from .truth import deblend_set

COLUMNS = {
    "flux_abs_median": "median abs(Δf/f)",
    "flux_median": "bias",
    "flux_outlier_50pct": "> 50 %",
    "flux_abs_median_high": "blended > .6",
    "gi_color_mad": "g - i",
    "btk_psnr": "PSNR",
    "steps_median": "steps",
}
"""What the table shows, and its headings."""


def variations() -> dict[str, dict]:
    """Settings that differ from the defaults: of `jd.Initialization`, `jd.ProximalAdam`, and the positions' error."""

    def threshold(level: float) -> dict:
        constraints = (jd.Positive(), jd.Monotonic(), jd.SparseThreshold(level), jd.CenterKept())
        return {"options": {"constraints": constraints}}

    def symmetric(asymmetry: float, floor: float = 0.5) -> dict:
        return {"options": {"priors": (jd.SymmetricPrior(asymmetry, floor),)}}

    return {
        "defaults": {},
        "no symmetry prior": {"options": {"priors": ()}},
        "asymmetry 0.1": symmetric(0.1),
        "asymmetry 0.5": symmetric(0.5),
        "asymmetry 0.2, floor 1": symmetric(0.2, 1.0),
        "threshold 0": threshold(0.0),
        "threshold 0.1": threshold(0.1),
        "threshold 0.4": threshold(0.4),
        "one component": {"options": {"max_components": 1}},
        "two components above S/N 100": {"options": {"two_above": 100.0}},
        "sparsity 0": {"options": {"sparsity": 0.0}},
        "sparsity 2": {"options": {"sparsity": 2.0}},
        "3 passes": {"options": {"passes": 3}},
        "20 passes": {"options": {"passes": 20}},
        "30 steps": {"optimizer": {"max_steps": 30}},
        "tolerance 1e-4": {"optimizer": {"relative_tolerance": 1e-4}},
        "tolerance 2e-3": {"optimizer": {"relative_tolerance": 2e-3}},
        "no curvatures": {"optimizer": {"curvature": 0.0}},
        "b1 0.9": {"optimizer": {"b1": 0.9}},
        "b2 0.999": {"optimizer": {"b2": 0.999}},
        "eps 1e-6": {"optimizer": {"eps": 1e-6}},
        "learning rate 1": {"optimizer": {"learning_rate": 1.0}},
        "steps of constant length": {"optimizer": {"learning_rate": 1.0, "decay": 1e6}},
        "positions fixed": {"center_error": 0.0},
        "position error 0.3": {"center_error": 0.3},
    }


def table(reports: dict[tuple[str, str], dict], sets: list[str]) -> str:
    """Markdown tables, one for each set."""
    lines = []
    for name in sets:
        lines += [f"**{pathlib.Path(name).stem}**", "", "| | " + " | ".join(COLUMNS.values()) + " |"]
        lines.append("|---" * (len(COLUMNS) + 1) + "|")
        for (variation, which), report in reports.items():
            if which == name:
                lines.append(f"| {variation} | " + " | ".join(f"{report[key]:.4g}" for key in COLUMNS) + " |")
        lines.append("")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", dest="sets", help="name or path of a set; may be given again")
    parser.add_argument("--blends", type=int, help="only the first so many blends of each set")
    parser.add_argument("--only", action="append", choices=list(variations()), help="only this variation; again")
    parser.add_argument("--output", type=pathlib.Path, help="file for the table, Markdown")
    arguments = parser.parse_args(argv)
    sets = arguments.sets or ["btk_lsst_dev"]
    truths = {name: load_truth_set(find(name)) for name in sets}
    reports = {}
    for variation, changes in variations().items():
        if arguments.only and variation not in arguments.only:
            continue
        for name, truth in truths.items():
            report = deblend_set(
                truth.first(min(len(truth), arguments.blends or len(truth))),
                jd.Initialization(**changes.get("options", {})),
                jd.ProximalAdam(**changes.get("optimizer", {})),
                center_error=changes.get("center_error", 0.1),
            )
            report["flux_abs_median_high"] = report.get("flux_bl_0.6_1", {}).get("abs_median", float("nan"))
            reports[variation, name] = report
            print(
                json.dumps({"variation": variation, "set": name, **{key: report[key] for key in COLUMNS}}), flush=True
            )
    if arguments.output is not None:
        arguments.output.write_text(table(reports, sets), encoding="utf-8")


if __name__ == "__main__":
    main()
