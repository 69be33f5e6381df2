"""Conversion to FP16: its rules, its audit, and an emulation of its rounding."""
