"""Plots and image sheets of the report."""
