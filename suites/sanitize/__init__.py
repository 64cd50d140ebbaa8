"""The sanitize layer."""
