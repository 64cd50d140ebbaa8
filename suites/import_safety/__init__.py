"""The import_safety layer."""
