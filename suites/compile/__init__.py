"""The compile layer."""
