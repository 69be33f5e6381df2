"""Parts of `benchmarks/gpu_suite.py`: what is built, checked and timed on a machine with a CUDA GPU."""
