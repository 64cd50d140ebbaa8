"""Cells in a process of their own: what ends it is that cell's outcome, and nobody else's."""
