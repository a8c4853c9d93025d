"""Many blends at once: ragged input, rectangular programs."""

from .engine import Deblended as Deblended
from .engine import deblend as deblend
from .engine import deblend_batch as deblend_batch
from .engine import deblend_stream as deblend_stream
from .plan import fitting_memory as fitting_memory
