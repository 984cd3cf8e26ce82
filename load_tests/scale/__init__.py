"""Autoscaling under live calls: a ramp from nothing to full and back, ingress changes, a rolling update, a control."""
