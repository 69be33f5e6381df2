"""Inputs as people have them, rebuilt small, each with the value that is right for it."""
