"""How good a bundle is: false accepts by kind of speech, misses, curves.

Imports runtime, training's recordings and metrics, and export.threshold.
"""
