"""What the account of the daemon may do, asked of the system as that very user."""
