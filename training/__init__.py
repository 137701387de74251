"""Recordings of a keyword → a checkpoint. Knows torch; knows nothing of export."""
