"""Live streams under stress: senders and measurements."""
