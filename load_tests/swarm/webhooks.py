"""Webhooks as the phone network sends them, and forged ones."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import jwt

from load_tests.swarm.target import Account


def event_document(status: str, *, call_uuid: str, from_number: str, to_number: str) -> dict[str, Any]:
    """One status event of an inbound call."""
    return {
        "from": from_number.removeprefix("+"),
        "to": to_number.removeprefix("+"),
        "uuid": call_uuid,
        "conversation_uuid": f"CON-{call_uuid}",
        "status": status,
        "direction": "inbound",
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def sign(body: bytes, account: Account, *, secret: str | None = None) -> dict[str, str]:
    """The headers of a signed webhook with this body. `secret`: of a forger."""
    claims = {
        "iat": int(time.time()),
        "jti": str(uuid.uuid4()),
        "iss": "Vonage",
        "payload_hash": hashlib.sha256(body).hexdigest(),
        "api_key": account.api_key,
        "application_id": account.application_id,
    }
    token = jwt.encode(claims, secret or account.signature_secret, algorithm="HS256")
    return {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}


def encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()
