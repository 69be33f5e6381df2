"""What pixels come from: images, rasters, windows of them, scaling and georeference."""
