"""INT8: calibration, the Q/DQ graph, sensitivity of its linears, and the search for the best mixture."""
