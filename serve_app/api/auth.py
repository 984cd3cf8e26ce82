"""Who asks: an API key in `Authorization: Bearer pk_...` or `X-API-Key`. The tenant comes from the key alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from serve_app.api.deps import Deps
from serve_app.api.problems import ProblemError
from serve_app.store.repositories import ApiKeys

# auto_error off: a missing key is answered as a problem, like everything else.
_bearer = HTTPBearer(auto_error=False, description="An API key: `pk_...`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False)


@dataclass(frozen=True, slots=True)
class Principal:
    tenant_id: str
    key_id: str


async def require_key(
    deps: Deps,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> Principal:
    """The holder of the request's key. Raises a 401 problem, the same for a wrong, an expired and a missing key."""
    presented = bearer.credentials if bearer is not None else header
    row = await ApiKeys(deps.db, deps.settings.tenant).verify(presented) if presented else None
    if row is None:
        raise ProblemError(
            401,
            "unauthorized",
            "this request needs a valid API key",
            remedy="send Authorization: Bearer pk_... with a key of this platform",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return Principal(tenant_id=row.tenant_id, key_id=row.id)


Caller = Annotated[Principal, Depends(require_key)]
