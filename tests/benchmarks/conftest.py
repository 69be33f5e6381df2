from tests.checkpoints import small_backbone, small_checkpoint

__all__ = ["small_backbone", "small_checkpoint"]
