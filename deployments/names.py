"""The names under which deployments find each other across applications."""

from __future__ import annotations

VOICE_APP = "voice"
CONTROL_APP = "control"

CODEC_POOL = "CodecPool"
WORKERS = "Workers"
DIALER = "Dialer"
