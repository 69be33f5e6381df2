"""Building of TensorRT engines: the input model, the build, its progress, and the equivalent trtexec command."""
