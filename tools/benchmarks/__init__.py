"""What the parts of this package cost, beside what people use today; run by ``tools/benchmark.py``."""
