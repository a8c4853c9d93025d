"""The commands, each of which is loaded when it is called."""

import gc
import importlib

import click

from .. import _version

COMMANDS = {
    "deblend": ("work", "Deblend all sources in images of the same sky."),
    "deblend-catalog": (
        "cataloging",
        "Deblend a large exposure into a store of models, so that the run can stop and go on.",
    ),
    "demo": ("demo", "Simulate a field of the sky, deblend it, and compare with the truth."),
    "detect": ("detecting", "Find the sources, without deblending them."),
    "info": ("info", "Show what FITS files hold: extensions, units, pixel scale, masked pixels, PSF width."),
    "match-psf": ("matching", "Convolve images so that their PSF is the same everywhere, and in all bands."),
    "merge": ("cataloging", "Put the shards of a catalog together, as if they had been one run."),
    "products": ("products", "Make images and tables from the models of a catalog run."),
    "restart": (
        "restarting",
        "Add sources that were missed to a catalog; only blends that they touch are fitted again.",
    ),
    "simulate": ("simulate", "Simulate images of a survey and write them as a survey does, with their truth."),
    "single-band": (
        "single_band",
        "Divide each band of images of the same sky by templates, with no fit of all bands together.",
    ),
    "warmup": ("warmup", "Compile the programs for blends of the given shapes, and keep them for later runs."),
}
"""Module of each command, and the first sentence of its help. In the module it is called NAME_command."""


class LazyGroup(click.Group):
    """A group that loads a command when it is called, and none to list them."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Names of the commands."""
        return list(COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __package__)
        if not gc.isenabled():  # as `main` left it
            gc.freeze()
            gc.enable()
        return getattr(module, f"{cmd_name.replace('-', '_')}_command")

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what `--help` says of the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version.__version__, prog_name="jaxdeblend", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, help="Show more messages, and tracebacks.")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Separate overlapping stars and galaxies in multi-band images.

    \b
    See it work:       jaxdeblend demo -o demo/
    Look at files:     jaxdeblend info coadd_g.fits psf_g.fits
    Deblend them:      jaxdeblend deblend 'coadd_{band}.fits' --bands g,r,i --psf 'psf_{band}.fits' -o out/
    A large one:       jaxdeblend deblend-catalog exposure.toml -o out/
    One band alone:    jaxdeblend single-band visit_r.fits --bands r --psf psf_r.fits -o out/
    Match their PSFs:  jaxdeblend match-psf --demo -o matched/

    \b
    Exit codes: 0 all well; 1 finished, but some sources have no flux; 2 bad input (nothing is written);
    3 a fault of this program; 130 interrupted.
    """  # noqa: D301
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
