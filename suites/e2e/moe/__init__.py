"""End to end: a small transformer with mixtures of experts in NVFP4, beside its dense twin."""
