"""NVFP4: the quantizer, the GEMM, a mixture of experts; one kernel and backend a module."""
