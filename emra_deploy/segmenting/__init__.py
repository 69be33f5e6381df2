"""Labels of one picture: the Segmenter, blending, areas, overlays, and the self-test of a loaded model."""
