"""The engine in C99 and its Python binding; imports numpy and the standard library only."""
