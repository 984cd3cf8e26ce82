"""Conversations written as YAML and played: on virtual time with scripted providers, or on the wire in real time."""
