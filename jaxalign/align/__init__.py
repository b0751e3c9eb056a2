"""Affine maps between the embedding spaces of encoders: solvers, selection of their settings, fits of many pairs."""
