"""Puts this folder on the import path: tests in sub-folders import the helpers here."""
