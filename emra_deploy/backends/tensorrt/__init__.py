"""TensorRT engines: flavours of the library, contents of engine files, memory and precision."""
