"""Checks of what a user gave, before time is spent on it."""
