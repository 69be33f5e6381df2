"""Things to measure: model files through the runtime's backends, checkpoints and peers through PyTorch."""
