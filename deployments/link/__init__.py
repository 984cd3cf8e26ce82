"""The media link: one multiplexed socket between an ingress process and a session process.

A call is leased by a Serve handle; its bytes travel here. `frames` is the format, `connection` the shared mechanics
(joined writes, bounded queues, heartbeat), `server` the session's end and `client` the ingress's end.
"""
