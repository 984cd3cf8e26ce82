"""API keys: the only place where a tenant comes from."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime

from sqlalchemy import select

from serve_app.store.base import new_id
from serve_app.store.models import ApiKey
from serve_app.store.rows import ApiKeyRow, to_row
from serve_app.store.scope import TenantScope

PREFIX = "pk_"
_SHOWN_CHARS = 10


class ApiKeys(TenantScope):
    async def create(self, name: str, *, expires_at: datetime | None = None) -> tuple[str, ApiKeyRow]:
        """A new key: its plain text, to be shown once, and the row that stays."""
        plaintext = PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            id=new_id(),
            tenant_id=self.tenant_id,
            name=name,
            prefix=plaintext[:_SHOWN_CHARS],
            key_sha256=_hash(plaintext),
            created_at=self.clock.now(),
            expires_at=expires_at,
        )
        async with self.db.transaction() as session:
            session.add(key)
        return plaintext, to_row(ApiKeyRow, key)

    async def verify(self, plaintext: str) -> ApiKeyRow | None:
        """The key's row, of whatever tenant it is; None for an unknown or expired key."""
        if not plaintext.startswith(PREFIX):
            return None
        async with self.db.session() as session:
            # Looked up by hash: there is no prefix comparison whose time could tell anything.
            found = await session.scalar(select(ApiKey).where(ApiKey.key_sha256 == _hash(plaintext)))
            if found is None or (found.expires_at is not None and found.expires_at <= self.clock.now()):
                return None
            return to_row(ApiKeyRow, found)

    async def any(self) -> bool:
        """Whether this tenant has a key."""
        async with self.db.session() as session:
            query = select(ApiKey.id).where(ApiKey.tenant_id == self.tenant_id).limit(1)
            return await session.scalar(query) is not None


def _hash(plaintext: str) -> str:
    return hashlib.sha256(plaintext.encode()).hexdigest()
