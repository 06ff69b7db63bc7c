"""Metrics on scenes whose answers are known."""
