"""End to end: a real sentence encoder on real sentences, over the kernels under test."""
