"""Losses, distillation, pruning and averaging; imports training.distributed, training.model, training.recipe and
training.windows."""
