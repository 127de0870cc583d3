"""Read the configuration files into typed settings."""
