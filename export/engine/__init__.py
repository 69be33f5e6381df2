"""TensorRT engines: the source they are built of, the build, its progress, and trtexec's command for the same."""
