"""Alembic's environment. `serve_app.store.migrate` runs it with an open connection inside one transaction."""

from __future__ import annotations

from alembic import context

from serve_app.store import campaign_models, models
from serve_app.store.base import Base

# Both describe tables of `Base.metadata` by being imported.
TABLES = (models, campaign_models)

connection = context.config.attributes["connection"]
if connection is None:
    raise RuntimeError("run migrations with `parley db upgrade`")
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    # SQLite cannot alter most things of a table in place.
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
