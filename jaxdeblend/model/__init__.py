"""What the sky is: spectra, morphologies, constraints, priors, sources, blends."""
