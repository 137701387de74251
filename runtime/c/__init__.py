"""The engine in C99, and what binds it. Imports numpy and the standard library only."""
