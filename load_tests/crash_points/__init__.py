"""The platform's processes on simulated time, each of which dies at any exchange with SQL, Redis or the network."""
