"""Imported once, by the process from which all others are forked.

So a dialer is at work some milliseconds after its start, and a kill at a random moment does not hit its imports: not
those of these modules, nor what they and their libraries leave to the first use.
"""

from __future__ import annotations

import anyio._backends._asyncio
import httpcore
import sqlalchemy.dialects.postgresql.asyncpg
import sqlalchemy.dialects.sqlite.aiosqlite
import uvicorn.protocols.http.auto
import uvicorn.protocols.websockets.auto
from sqlalchemy.orm import configure_mappers

from load_tests.dialer import control, network, process
from serve_app.dialing.rules import shipped

__all__ = ["anyio", "control", "httpcore", "network", "process", "sqlalchemy", "uvicorn"]

configure_mappers()
shipped()
