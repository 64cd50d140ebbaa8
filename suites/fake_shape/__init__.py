"""The fake_shape layer."""
