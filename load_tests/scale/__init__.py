"""Autoscaling under live calls: a ramp up and down again, changes of replicas, and controls that must cut."""
