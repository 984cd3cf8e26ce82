"""Where a session's end of the link listens, and the TLS that Ray is configured with."""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class LinkAddress(BaseModel):
    """A Unix socket path on the same node, or host and port between nodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None
    host: str | None = None
    port: int | None = None

    @property
    def key(self) -> str:
        return self.path or f"{self.host}:{self.port}"


def socket_dir() -> Path:
    """The private folder (0700) of this user's link sockets: short, for a socket path may have 107 bytes."""
    folder = Path(tempfile.gettempdir()) / f"parley-link-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} must belong to this user and be closed to others (mode 0700)")
    return folder


def ray_tls(*, server: bool) -> ssl.SSLContext | None:
    """Mutual TLS from the certificates that Ray's own RPC uses (`RAY_USE_TLS=1`), or None where that is off."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Nodes are addressed by IP, and Ray's certificates name no host: the CA and the call's token authenticate.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(os.environ["RAY_TLS_SERVER_CERT"], os.environ["RAY_TLS_SERVER_KEY"])
    context.load_verify_locations(os.environ["RAY_TLS_CA_CERT"])
    return context
