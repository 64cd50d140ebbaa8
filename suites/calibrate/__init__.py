"""Measures the budget's constants on correct results; `python -m suites.calibrate` prints them."""
