"""The permissions of the service user, as the system reports them to that user."""
