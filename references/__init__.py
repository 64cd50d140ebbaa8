"""Dense float64 references, one op a file: each is short enough to check by eye."""
