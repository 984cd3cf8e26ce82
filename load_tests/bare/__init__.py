"""Parley's own pipeline in one bare uvicorn process: what is left when Ray, Redis and HAProxy are taken away.

A yardstick for the cost of composition, not a product: no leases, no slots, no authentication, no scaling.
"""
