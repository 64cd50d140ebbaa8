"""The numeric layer."""
