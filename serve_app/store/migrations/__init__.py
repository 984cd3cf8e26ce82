"""Alembic migrations: the same ones on SQLite and PostgreSQL."""
