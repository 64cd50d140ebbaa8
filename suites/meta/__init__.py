"""Tests of the harness itself, planted faults among them."""
