"""The parts of benchmarks/gpu.py: what is measured, how, and what is said about it."""
