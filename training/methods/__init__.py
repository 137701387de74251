"""Losses, distillation and pruning; imports training.model, training.windows and training.processes."""
