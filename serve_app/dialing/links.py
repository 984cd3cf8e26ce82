"""The URLs that a create-call request gives to the network: each names its attempt, under our own signature.

So any webhook of the call, the first of which is `started`, binds the carrier's call id to the attempt, even where
the response to the create-call request was lost. The tenant is in the signature, so it is known without a search.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import urlencode

from serve_app.errors import SettingsError
from serve_app.settings import Settings

ANSWER_PATH = "/webhooks/vonage/answer"
EVENT_PATH = "/webhooks/vonage/event"


@dataclass(frozen=True, slots=True)
class AttemptRef:
    tenant_id: str
    attempt_id: str


class AttemptLinks:
    """Builds and checks the links. Every URL starts with `public_url`, never with what a request's Host header says."""

    def __init__(self, settings: Settings) -> None:
        secret = settings.telephony.vonage.signature_secret
        if secret is None:
            raise SettingsError(
                "telephony.vonage.signature_secret: set VONAGE_SIGNATURE_SECRET; links are signed with it"
            )
        self._base = settings.public_url
        # A key of its own, so that a link's signature is never valid for anything else signed with the secret.
        self._key = hmac.digest(secret.get_secret_value().encode(), b"parley attempt link v1", hashlib.sha256)

    def answer_url(self, ref: AttemptRef) -> str:
        return f"{self._base}{ANSWER_PATH}?{self._query(ref)}"

    def event_url(self, ref: AttemptRef) -> str:
        return f"{self._base}{EVENT_PATH}?{self._query(ref)}"

    def check(self, tenant_id: str, attempt_id: str, signature: str) -> AttemptRef | None:
        """The attempt that a link names, or None if we did not write the link."""
        ref = AttemptRef(tenant_id=tenant_id, attempt_id=attempt_id)
        return ref if hmac.compare_digest(self._sign(ref).encode(), signature.encode()) else None

    def _query(self, ref: AttemptRef) -> str:
        return urlencode({"tenant": ref.tenant_id, "attempt": ref.attempt_id, "sig": self._sign(ref)})

    def _sign(self, ref: AttemptRef) -> str:
        # The length prefix keeps ("ab", "c") and ("a", "bc") apart.
        message = f"{len(ref.tenant_id)}:{ref.tenant_id}:{ref.attempt_id}".encode()
        return base64.urlsafe_b64encode(hmac.digest(self._key, message, hashlib.sha256)).rstrip(b"=").decode()
