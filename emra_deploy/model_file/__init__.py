"""The description inside a model file: Manifest, classes, golden tile, seal."""
