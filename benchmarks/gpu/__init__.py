"""Parts of `benchmarks/gpu_suite.py`: builds, checks and timings on a machine with a CUDA GPU."""
