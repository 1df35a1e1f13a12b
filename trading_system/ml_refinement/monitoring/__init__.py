"""Monitoring: has the market moved, does what serves still hold, and is learning alive? It warns; it never promotes."""
