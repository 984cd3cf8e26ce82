"""Helper processes that hold the phones' ends of many calls, so that a load generator's own loop carries no frames."""
