"""Generated aerial scenes whose truth is known.

They imitate the look and the labelling habits of the Dubai tiles: a row of villas is one building area, with its
gardens and courtyards; car parks and clear dirt roads are roads.
"""

from training.data.scenes.geotiff import write_geotiff
from training.data.scenes.scene import DEFAULT_GSD, DUBAI_CLASSES, Scene, generate

__all__ = ["DEFAULT_GSD", "DUBAI_CLASSES", "Scene", "generate", "write_geotiff"]
