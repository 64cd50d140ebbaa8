"""Normalisations, one backend a module."""
