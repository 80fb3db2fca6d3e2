"""Gaussian ensembles, the proximal meta-model, imagination."""
