"""SVDQuant W4A4: the activation quantizer and the GEMM, one kernel and backend a module."""
