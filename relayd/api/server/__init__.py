"""The HTTP server behind the API: Quart and Hypercorn, hardened."""
