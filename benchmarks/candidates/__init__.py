"""What can be measured: model files through the runtime's backends, checkpoints and peers through PyTorch."""
