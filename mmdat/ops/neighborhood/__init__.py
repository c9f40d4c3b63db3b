"""Neighborhood attention: ``api`` is the door, the other modules are its implementations."""
