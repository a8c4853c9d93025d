"""All benchmarks of speed, one after the other; a table and a figure in ``benchmarks/results/``.

    python -m benchmarks.report --set btk_lsst_dev --set mixed100

Each benchmark runs in a process of its own, with the options under which its figures are usually given. What it prints
goes to ``NAME.jsonl``; ``report.md`` and ``speed.png`` are made of these files. ``--only`` runs some of them and leaves
the other files as they are. A benchmark whose data or peer is not there is left out, and said to be.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys

from matplotlib.figure import Figure

RESULTS = pathlib.Path(__file__).parent / "results"

WIDE = "#2a6f97"
PALE = "#a9c9dc"


def commands(sets: list[str]) -> dict[str, list[list[str]]]:
    """Arguments of each run of each benchmark."""
    return {
        "throughput": [["--set", name] for name in sets],
        "stages": [["--set", name, "--json"] for name in sets],
        "scaling": [["--sizes", "10", "100", "1000"]],
        "stragglers": [[]],
        "peers": [[]],
    }


def run(name: str, arguments: list[list[str]], folder: pathlib.Path) -> None:
    """Run a benchmark and keep the lines that it prints.

    Parameters
    ----------
    name
        Module in ``benchmarks``.
    arguments
        Arguments of each of its runs.
    folder
        Where ``NAME.jsonl`` goes; it is not written if a run fails.
    """
    lines = []
    one_core = ["taskset", "-c", "0"] if name == "stages" and shutil.which("taskset") else []
    for each in arguments:
        command = [*one_core, sys.executable, "-m", f"benchmarks.{name}", *each]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} {' '.join(each)}: left out; {(done.stderr.strip().splitlines() or ['?'])[-1]}", flush=True)
            return
        lines += done.stdout.splitlines()
        print(f"{name} {' '.join(each)}: done", flush=True)
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def read(folder: pathlib.Path) -> dict[str, list[dict]]:
    """What benchmarks printed, by their names."""
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("*.jsonl"))
    }


def table(rows: list[dict], columns: dict[str, str]) -> str:
    """Rows as a table in Markdown.

    Parameters
    ----------
    rows
        One dict for each row; what is missing stays empty.
    columns
        Heading of each key that is shown.

    Returns
    -------
    str
        The table.

    Examples
    --------
    >>> print(table([{"a": 1, "b": 2}], {"a": "first"}))
    | first |
    | --- |
    | 1 |
    """
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[str(row.get(key, "")) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(results: dict[str, list[dict]]) -> str:
    """The tables of all benchmarks, in Markdown."""
    parts = []
    if "throughput" in results:
        columns = {
            "set": "set", "blends": "blends", "blends_per_s": "blends / s", "sources_per_s": "sources / s",
            "compile_s": "compile [s]", "run_s": "run [s]", "over_floor": "run / bare FFTs", "steps_median": "steps",
            "flux_error_snr20": "flux error at S/N > 20", "peak_rss_mb": "memory [MB]",
        }  # fmt: skip
        device = results["throughput"][0]["device"]
        parts.append(f"Throughput ({device}), compilation apart:\n\n" + table(results["throughput"], columns))
    if "stages" in results:
        names = [name for name in results["stages"][0] if name not in ("set", "shape", "sources")]
        columns = {"set": "set", "shape": "pixels", "sources": "sources"} | {name: name for name in names}
        parts.append("Stages of one blend on one core, in ms:\n\n" + table(results["stages"], columns))
    if "scaling" in results:
        first, *rows = results["scaling"]
        for row in rows:
            row["memory"] = " → ".join(str(value) for value in row["rss_mb"])
        columns = {"blends": "blends", "blends_per_s": "blends / s", "memory": "memory after 300 and all [MB]"}
        parts.append(f"A mixed catalog, streamed; {first['programs']} programs:\n\n" + table(rows, columns))
    if "stragglers" in results:
        columns = {
            "lanes": "lanes", "enter_at_a_time": "enter at a time", "blends_per_s": "blends / s",
            "blends_per_s_with_stragglers": "with stragglers", "slowdown": "slowdown", "work": "steps",
        }  # fmt: skip
        parts.append("One blend in twenty a straggler:\n\n" + table(results["stragglers"], columns))
    if "peers" in results:
        rows = [row | {"error": f"{row['ours']['flux_error_snr20']} / {row['theirs']['flux_error_snr20']}"}
                for row in results["peers"]]  # fmt: skip
        columns = {
            "peer": "peer", "blends": "blends", "speedup_first": "faster, with compilation",
            "speedup_again": "faster, without", "error": "flux error at S/N > 20, ours / theirs",
        }  # fmt: skip
        parts.append("Beside others, on the same blends:\n\n" + table(rows, columns))
    return "\n\n".join(parts) + "\n"


def figure(results: dict[str, list[dict]]) -> Figure:
    """Blends a second against the size of the catalog, and with stragglers."""
    drawn = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    rows = results.get("scaling", [{}])[1:]
    left.plot([row["blends"] for row in rows], [row["blends_per_s"] for row in rows], "o-", color=WIDE)
    left.set(xscale="log", xlabel="blends in the catalog", ylabel="blends / s", title="A mixed catalog, streamed")
    rows = results.get("stragglers", [])
    for offset, key, color, label in (
        (-0.2, "blends_per_s", PALE, "all alike"),
        (0.2, "blends_per_s_with_stragglers", WIDE, "5 % stragglers"),
    ):
        right.bar([k + offset for k in range(len(rows))], [row[key] for row in rows], 0.4, color=color, label=label)
    names = [_way(row) for row in rows]
    right.set_xticks(range(len(rows)), names)
    right.set(ylabel="blends / s", title="Ways to share calls")
    if rows:
        right.legend(frameon=False)
    for axes in (left, right):
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _way(row: dict) -> str:
    if row["lanes"] == 1:
        return "one a call"
    return f"{row['lanes']} lanes,\n{'refilled' if row['enter_at_a_time'] < row['lanes'] else 'all wait'}"


def main(argv: list[str] | None = None) -> None:
    """Run the benchmarks and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", help="a set for throughput and stages; may be given again")
    parser.add_argument("--only", action="append", metavar="NAME", help="run this benchmark; may be given again")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, each in commands(arguments.set or ["btk_lsst_dev", "mixed100"]).items():
        if arguments.only is None or name in arguments.only:
            run(name, each, arguments.output)
    results = read(arguments.output)
    (arguments.output / "report.md").write_text(report(results))
    figure(results).savefig(arguments.output / "speed.png", dpi=120)


if __name__ == "__main__":
    main()
