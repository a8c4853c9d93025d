"""Print the versions of Python and of the packages that results depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("jax", "jaxlib", "equinox", "optax", "jaxtyping", "numpy", "scipy", "astropy", "h5py", "matplotlib")

print("Python", platform.python_version(), flush=True)
for name in PACKAGES:
    try:
        print(name, version(name), flush=True)
    except PackageNotFoundError:
        print(name, "is not installed", flush=True)
