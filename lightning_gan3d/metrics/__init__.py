"""Measures of generators: image distribution, view consistency, pose."""
