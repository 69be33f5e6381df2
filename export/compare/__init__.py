"""Comparing models: runners, tiles, the comparison itself, and the checks of an export."""
