"""Activation functions, one backend a module."""
