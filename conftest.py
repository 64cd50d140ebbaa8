"""Loads the plugin from the checkout; a no-op where its entry point has loaded it already."""

pytest_plugins = ("harness.plugin",)
