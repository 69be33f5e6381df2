"""One table of precisions: scores, agreement, sizes, times."""
