"""Costs counted on graphs, and the ceilings of the machine that they are compared with."""
