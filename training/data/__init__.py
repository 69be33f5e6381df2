"""Aerial data sets over their public folder layouts, as tiles that are read by windows.

    dataset = open_dataset("dubai", "data/dubai", "train")
    check(dataset)
    tile = dataset.tiles[0]
    image, labels = tile.read_image(), tile.read_labels()

Nothing here imports PyTorch: accuracy is also measured on devices that do not have it.
"""

from training.data.base import AerialDataset, Tile
from training.data.catalogue import KINDS, open_dataset
from training.data.checking import DatasetSummary, check, summarise

__all__ = ["KINDS", "AerialDataset", "DatasetSummary", "Tile", "check", "open_dataset", "summarise"]
