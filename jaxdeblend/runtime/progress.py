"""Messages for those who wait: each stage of the work says when it begins."""

import logging

_logger = logging.getLogger("jaxdeblend.progress")


def announce(message: str, *values: object) -> None:
    """Log what is being done, at the level INFO of the logger ``jaxdeblend.progress``.

    The command line shows these messages on a terminal.

    Parameters
    ----------
    message
        The message, with places for the values as in `logging`.
    *values
        The values.

    Examples
    --------
    >>> announce("reading %d images", 5)
    """
    _logger.info(message, *values)
