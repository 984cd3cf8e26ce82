"""Where the phone network's media sockets go: to the ingress' own listener, or through Serve's proxy."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from serve_app.settings import Settings

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared with, not bound
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def media_uri(settings: Settings, call_id: str) -> str:
    """The WebSocket of one call, as the answer to the phone network names it."""
    return f"{media_url(settings)}/media/{call_id}"


def media_url(settings: Settings) -> str:
    """`server.media_url`; where it is not set, what can be known without asking anybody.

    A phone network on this machine reaches the media listener itself. From outside only `public_url` is known to lead
    here, and its one port leads to Serve's proxy, which has `/media` too.
    """
    server = settings.server
    if server.media_url is not None:
        return str(server.media_url).rstrip("/")
    if not _through_proxy(settings):
        host = "127.0.0.1" if server.media_host in WILDCARDS else server.media_host
        return f"ws://[{host}]:{server.media_port}" if ":" in host else f"ws://{host}:{server.media_port}"
    scheme, _, rest = settings.public_url.partition("://")
    return f"{'wss' if scheme == 'https' else 'ws'}://{rest}"


def describe_media(settings: Settings) -> dict[str, Any]:
    """For `/health`, `parley doctor` and the start-up log. `advice` is there where something would be cheaper."""
    through_proxy = _through_proxy(settings)
    found: dict[str, Any] = {"url": media_url(settings), "through_proxy": through_proxy}
    if through_proxy and settings.server.media_port is None:
        found["advice"] = "media passes Serve's proxy, whose reloads cut calls after its hard stop: set MEDIA_PORT"
    elif through_proxy:
        found["advice"] = (
            "media passes Serve's proxy; cheaper, and no call is cut by the proxy's hard stop: let the load balancer "
            f"send /media to port {settings.server.media_port}, and set server.media_url (MEDIA_URL) to its address"
        )
    return found


def _through_proxy(settings: Settings) -> bool:
    server = settings.server
    return server.media_url is None and (server.media_port is None or not is_local(settings.public_url))


def is_local(url: str) -> bool:
    """Is this an address of this machine's loopback?"""
    return urlsplit(url).hostname in LOOPBACK
