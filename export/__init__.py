"""Checkpoint → bundle; imports training.model, and where it measures training.data and training.metrics."""
