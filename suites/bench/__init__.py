"""Benchmarks of the harness itself: ratios measured in one run, never tests."""
