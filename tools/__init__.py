"""Development tools; they are not part of an installation."""
