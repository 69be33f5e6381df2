"""TensorRT engines: the library's flavours, what an engine file says about itself, its memory and its precision."""
