"""NVFP4: the quantizer, the GEMM and the layout of scales, one kernel and backend a module."""
