"""Measurements: every figure the project states has its command here."""
