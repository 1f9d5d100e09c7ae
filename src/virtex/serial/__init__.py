"""Pairs of functions that carry a framework's objects in a message, as text."""
