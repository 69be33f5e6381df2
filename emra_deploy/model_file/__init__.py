"""What a model file says about itself: Manifest, classes, golden tile, seal."""
