"""Bounds of whole networks, from the norms of their blocks."""
