"""The boundary layer."""
