"""What the telescope did: boxes, PSFs, difference kernels, observations."""
