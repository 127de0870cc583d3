"""The PostgreSQL server of the demo and of the tests."""
