"""Align personalised, multi-character image generators with human preferences, in JAX."""
