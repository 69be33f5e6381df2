"""From a checkpoint to the file a device runs; every stage checks its own result."""
