"""The admin API on a unix socket, and its client."""
