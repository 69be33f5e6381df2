"""The core of every timing here: interleaved rounds, their statistics, and whether they allow a conclusion."""

from export.measure.interleave import Plan, Series, measure
from export.measure.noise import Noise, Watch
from export.measure.statistics import Ratio, Summary, paired_ratio, summarise, unpaired_ratio

__all__ = [
    "Noise",
    "Plan",
    "Ratio",
    "Series",
    "Summary",
    "Watch",
    "measure",
    "paired_ratio",
    "summarise",
    "unpaired_ratio",
]
