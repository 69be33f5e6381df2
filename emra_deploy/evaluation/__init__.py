"""Scoring a model on labelled pictures: the loop, its tables and JSON, a page of the worst, and the commands' part."""

from emra_deploy.evaluation.loop import (
    CLUTTER,
    Evaluation,
    ImageScore,
    LabelledTile,
    check_bands,
    check_classes,
    evaluate,
)

__all__ = ["CLUTTER", "Evaluation", "ImageScore", "LabelledTile", "check_bands", "check_classes", "evaluate"]
