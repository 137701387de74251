"""Checkpoint → bundle; imports training.model, runtime.c to run a model.bin, and where it measures training.data and
training.metrics."""
