"""Correct variants of the bundled ops, each right by argument: the budget may reject none."""
