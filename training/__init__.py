"""Training of EMRA-proxy: the model, the data sets, the recipes, train and evaluate.

Only this package knows PyTorch, and `training.data` does not: label reading is needed where there is no torch.
"""
