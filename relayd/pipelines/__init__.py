"""The pipelines: run logs into the database, files to the upstream. One module for each stage."""
