"""Live streams under stress: what sends them, and what is measured of them."""
