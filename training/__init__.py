"""Recordings of a keyword → a checkpoint, by torch; imports no other room."""
