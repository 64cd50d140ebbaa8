"""What the gate found, for readers: a terminal, a pull request, a CI system, a browser.

Every report comes from the same judgement and the same matrix of cells; none decides anything.
"""
