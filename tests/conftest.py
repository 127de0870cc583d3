"""Fixtures that every room of the tests shares."""

from tests.support.postgres import database, postgres_server, private_postgres

__all__ = ["database", "postgres_server", "private_postgres"]
