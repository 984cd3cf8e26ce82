"""What one call asks of the control plane: see `__main__`."""
