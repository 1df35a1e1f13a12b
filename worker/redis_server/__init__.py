"""Redis server."""
