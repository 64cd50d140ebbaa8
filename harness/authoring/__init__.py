"""Commands for whoever writes a kernel: scaffold one, make its next version, check it at a size."""
