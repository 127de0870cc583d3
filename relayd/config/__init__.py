"""The configuration files, turned into typed settings."""
