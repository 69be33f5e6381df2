"""Training of EMRA-proxy: the model, the data sets, the recipes, train and evaluate.

PyTorch is imported here and nowhere below, and not in `training.data`, which devices without torch use.
"""
