"""FP16: the conversion, its rules, its audit, and what rounding does."""
