"""Measure how well and how fast the package deblends. Not part of the installed package."""
