"""Proof of power: faults planted by rule in the bundled kernels, and what catches them."""
