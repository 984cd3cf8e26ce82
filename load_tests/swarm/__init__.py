"""What the Locust users need: where the platform is, who signs for the network, stages, and metrics."""
