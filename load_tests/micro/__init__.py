"""Micro-benchmarks: what one frame, one event, one document costs by itself. `make bench`, `make bench-codec`."""
