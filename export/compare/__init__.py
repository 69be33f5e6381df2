"""Comparison of models: runners, tiles, the comparison, its report, and the checks of an export."""
