"""The capacity model: from measured costs of one call to many. `python -m load_tests.capacity`, docs/capacity.md."""
