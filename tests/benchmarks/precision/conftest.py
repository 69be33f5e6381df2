from tests.export.small_models import explicit_file, scene_data, small_file, tiny_checkpoint

__all__ = ["explicit_file", "scene_data", "small_file", "tiny_checkpoint"]
