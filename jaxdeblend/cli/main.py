"""Entry point: what goes wrong becomes one line and an exit code."""

import contextlib
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn

OK, SOME_FAILED, BAD_INPUT, INTERNAL_ERROR, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143
"""Exit codes: all well; some sources have no flux; bad input; a fault of this program; Ctrl-C; SIGTERM."""


def main() -> None:
    """Run the command line of this process and exit.

    Examples
    --------
    >>> from jaxdeblend.cli import main
    >>> main.__name__
    'main'
    """
    signal.signal(signal.SIGTERM, _terminate)  # so that temporary files are removed
    gc.disable()  # what a command loads stays: to look through it takes long, and jax loses a signal that comes then
    try:
        code = run(sys.argv[1:])
    except SystemExit:  # by SIGTERM
        code = TERMINATED
    if code in (INTERRUPTED, TERMINATED):
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End the process now: an ordinary exit waits for threads, which may compile or fit for many seconds more."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _terminate(*_: object) -> NoReturn:
    sys.exit(TERMINATED)


def run(arguments: Sequence[str]) -> int:
    """Run a command.

    Parameters
    ----------
    arguments
        What follows ``jaxdeblend`` on the command line.

    Returns
    -------
    int
        Exit code: 0 all well, 1 finished but some sources have no flux, 2 bad input, 3 a fault of this
        program, 130 interrupted.

    Examples
    --------
    >>> from jaxdeblend.cli import run
    >>> run(["deblend", "none.fits", "--bands", "r", "--psf-fwhm", "4", "-o", "out"])
    2
    """
    try:
        import click

        from .commands import group
        from .progress import StderrHandler
    except ImportError as error:
        if error.name not in ("click", "tqdm"):
            raise
        return _fail(f"the command line needs {error.name}: pip install 'jaxdeblend[cli]'", BAD_INPUT)
    debug = "--debug" in arguments
    with _messages(StderrHandler(debug=debug), debug):
        try:
            return int(group.main(list(arguments), prog_name="jaxdeblend", standalone_mode=False) or OK)
        except (click.Abort, KeyboardInterrupt):
            return _fail("interrupted", INTERRUPTED)
        except click.UsageError as error:
            where = "" if error.ctx is None else f" (see '{error.ctx.command_path} --help')"
            return _fail(error.format_message() + where, BAD_INPUT)
        except click.ClickException as error:
            return _fail(error.format_message(), BAD_INPUT)
        except (ValueError, OSError, ImportError) as error:
            if debug:
                raise
            return _fail(str(error), BAD_INPUT)
        except Exception as error:
            if debug:
                raise
            reason = f"{type(error).__name__}: {error}"
            return _fail(f"internal error, {reason} (--debug shows where)", INTERNAL_ERROR)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"jaxdeblend: error: {' '.join(message.split())}\n")
    return code


@contextlib.contextmanager
def _messages(handler: logging.Handler, debug: bool) -> Iterator[None]:
    """Show the library's warnings, and on a terminal what it does; warnings of other packages only for debugging."""
    logger = logging.getLogger("jaxdeblend")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default" if debug else "ignore")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
