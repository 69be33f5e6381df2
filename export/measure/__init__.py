"""The core of every timing: interleaved rounds, their statistics, and the noise of the machine."""

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
