"""How long a user waits for the first result of a real blend (HSC, five bands, seven sources); one JSON line.

    python -m benchmarks.first_result
    taskset -c 0 python -m benchmarks.first_result

Each process is a new one, with an empty folder of compiled programs but for the second process, which finds those of
the first. ``deblend_s`` is the first ``jd.deblend``, ``five_lines_s`` all from ``import jaxdeblend`` to pictures of the
sources, ``second_process_s`` the same in the second process. ``again_s`` is a second round in the first.
``n_programs`` counts what XLA compiled or loaded, ``n_operations`` the StableHLO operations of the programs of
``deblend`` before optimization; ``traced_s``, ``lowered_s`` and ``compiled_s`` add up what JAX reports, in several
threads. ``edited_prior_s`` is the next ``deblend`` after the class of a prior was edited. CPU seconds are beside wall
seconds (``_cpu_s``).
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EVENTS = {"jaxpr_trace": "traced_s", "jaxpr_to_mlir_module": "lowered_s", "backend_compile": "compiled_s"}
"""Events of JAX whose durations are added up."""


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="hsc_cosmos_35", help="name of the file in ../shared/data, or a path")
    parser.add_argument("--part", choices=("lines", "prior"), help="used by the benchmark itself: one process of it")
    chosen = parser.parse_args(arguments)
    if chosen.part == "lines":
        print(json.dumps(lines(chosen.set)))
    elif chosen.part == "prior":
        print(json.dumps(edited_prior(chosen.set)))
    else:
        print(json.dumps(report(chosen.set)))


def report(name: str) -> dict[str, object]:
    """Figures of three processes."""
    with tempfile.TemporaryDirectory() as folder:
        first = in_new_process(name, "lines", folder)
        second = in_new_process(name, "lines", folder)
    with tempfile.TemporaryDirectory() as folder:
        prior = in_new_process(name, "prior", folder)
    second_process = {f"second_process_{key}": second[f"five_lines_{key}"] for key in ("s", "cpu_s")}
    return first | second_process | prior


def in_new_process(name: str, part: str, folder: str) -> dict[str, object]:
    """Figures of a new process whose compiled programs are kept in a folder."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    command = [sys.executable, "-m", "benchmarks.first_result", "--set", name, "--part", part]
    environment = inherited | {"JAXDEBLEND_CACHE": folder}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def lines(name: str) -> dict[str, object]:
    """Import and the lines of a user, timed in this process."""
    clock = Clock()
    with clock.timed("import"):
        import jax
        import numpy as np

        import jaxdeblend as jd
    counts = listen(jax)
    blend = blend_of(name, np)
    again = Clock()
    n_steps, n_operations = run_lines(clock, blend)
    n_programs = counts["n_programs"]
    run_lines(again, blend)
    figures = {f"{line}_s": seconds for line, seconds in clock.wall.items()}
    figures["deblend_cpu_s"] = clock.cpu["deblend"]
    figures["five_lines_s"] = sum(clock.wall.values())
    figures["five_lines_cpu_s"] = sum(clock.cpu.values())
    figures["again_s"] = sum(again.wall.values())
    figures |= {key: counts[key] for key in EVENTS.values()}
    rounded = {key: round(value, 2) for key, value in figures.items()}
    numbers = {
        "n_programs": n_programs,
        "n_programs_again": counts["n_programs"] - n_programs,
        "n_operations": n_operations,
        "n_steps": n_steps,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "version": jd.__version__,
        "jax": jax.__version__,
    }
    return rounded | numbers


def run_lines(clock: "Clock", blend: tuple) -> tuple[int, int]:
    """The lines of a user; steps of the fit, and operations of the programs that were traced for it."""
    import jax

    import jaxdeblend as jd

    images, variance, psf, bands, centers = blend
    with clock.timed("observation"):
        obs = jd.Observation(images, variance, psf, bands=bands)
    with clock.timed("deblend"):
        result = jd.deblend(obs, centers)
    n_operations = operations_of_traced_programs()
    with clock.timed("measure"):
        jd.measure(result, obs)
    with clock.timed("apportion_flux"):
        jax.block_until_ready(jd.apportion_flux(result, obs).children)
    with clock.timed("render_sources"):
        jax.block_until_ready(jd.render_sources(result.blend, obs))
    with clock.timed("render"):
        jax.block_until_ready(jd.render(result.blend, obs))
    return int(result.n_steps), n_operations


def edited_prior(name: str) -> dict[str, object]:
    """Seconds of a `deblend` after the class of its prior was edited."""
    import numpy as np

    import jaxdeblend as jd

    class Mine(jd.AbstractPrior):
        def log_prob(self, image, noise):
            return -0.5 * (image**2).sum() * noise

    class Edited(jd.AbstractPrior):
        def log_prob(self, image, noise):
            return -0.1 * abs(image).sum() * noise

    images, variance, psf, bands, centers = blend_of(name, np)
    obs = jd.Observation(images, variance, psf, bands=bands)
    clock = Clock()
    for part, prior in (("new_prior", Mine()), ("edited_prior", Edited())):
        with clock.timed(part):
            jd.deblend(obs, centers, options=jd.Initialization(priors=(prior,)))
    seconds = {"edited_prior_s": clock.wall["edited_prior"], "edited_prior_cpu_s": clock.cpu["edited_prior"]}
    return {key: round(value, 2) for key, value in seconds.items()}


class Clock:
    """Wall and CPU seconds of named parts."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._part = ""

    def timed(self, part: str) -> "Clock":
        """Context whose seconds are kept under a name."""
        self._part = part
        return self

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._began
        self.wall[self._part] = time.perf_counter() - wall
        self.cpu[self._part] = time.process_time() - cpu


def listen(jax) -> collections.Counter:
    """Counter of what JAX traces, lowers and compiles from now on."""
    counts = collections.Counter({"n_programs": 0, **dict.fromkeys(EVENTS.values(), 0.0)})

    def add(event: str, duration: float, **_: object) -> None:
        for part, key in EVENTS.items():
            if event.endswith(f"/{part}_duration"):
                counts[key] += duration
                counts["n_programs"] += part == "backend_compile"

    jax.monitoring.register_event_duration_secs_listener(add)
    return counts


def operations_of_traced_programs() -> int:
    """StableHLO operations of all programs that were traced so far."""
    from jaxdeblend.runtime import cache, traced

    folder = cache.keep_programs()
    total = 0
    for path in Path(folder).glob(f"{traced.FOLDER}/*"):
        program = traced.load(folder, path.name)
        if program is not None:
            total += sum(line.lstrip().startswith("%") for line in program.exported.mlir_module().splitlines())
    return total


def blend_of(name: str, np):
    """Images, variance, PSFs, bands and positions of the set."""
    from .data import find

    data = np.load(find(name))
    bands = tuple(str(band) for band in data["filters"])
    centers = np.stack([data["catalog"]["y"], data["catalog"]["x"]], axis=1)
    return data["images"], data["variance"], data["psfs"], bands, centers


if __name__ == "__main__":
    main()
