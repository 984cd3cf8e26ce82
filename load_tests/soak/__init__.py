"""The soak: a constant number of calls for a long time, and whether anything grows. `make bench-soak`."""
