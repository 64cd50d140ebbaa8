"""The release gate: contract, inventory and records compared; it imports no torch and no pytest."""
