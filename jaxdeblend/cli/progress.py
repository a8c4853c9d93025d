"""Messages and progress bars for a terminal: stages with the seconds that have passed, and bars with a clock."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import tqdm

REFRESH_SECONDS = 0.5
"""Time between two drawings of a bar: its clock must be seen to run while a program is compiled."""


class StderrHandler(logging.Handler):
    """Writes to whatever stderr is now: warnings, and on a terminal what is being done.

    Parameters
    ----------
    debug
        Whether to write messages of all levels.
    """

    def __init__(self, *, debug: bool):
        super().__init__(logging.DEBUG if debug else logging.INFO)
        self._debug = debug
        self._started = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, if it is for this stderr."""
        text = " ".join(record.getMessage().split())
        if record.name == "jaxdeblend.progress":
            if not (self._debug or sys.stderr.isatty()):
                return
            line = f"{time.monotonic() - self._started:6.1f} s  {text}"
        elif self._debug or record.levelno >= logging.WARNING:
            line = f"jaxdeblend: {record.levelname.lower()}: {text}"
        else:
            return
        tqdm.tqdm.write(line, file=sys.stderr)  # above a bar, if there is one


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr once the number of things to do is known, if that is a terminal.

    Parameters
    ----------
    label
        What is going on.
    unit
        Of what.

    Yields
    ------
    Callable[[int, int], None]
        To be called with the number just done, and the number of all.
    """
    begin = f"{label}: {{elapsed}}"  # the number is not known yet
    with tqdm.tqdm(desc=label, unit=unit, disable=None, leave=False, bar_format=begin) as bar, _refreshed(bar):

        def report(done: int, total: int) -> None:
            bar.total, bar.bar_format = total, None
            bar.update(done)

        yield report


@contextmanager
def _refreshed(bar: tqdm.tqdm) -> Iterator[None]:
    """Let a thread draw the bar again and again."""
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(REFRESH_SECONDS):
            bar.refresh()

    if bar.disable:
        yield
        return
    thread = threading.Thread(target=refresh, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
