"""The command line: jaxdeblend deblend | detect | info | demo."""

from .main import main as main
from .main import run as run
