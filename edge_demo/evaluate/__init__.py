"""How good a bundle is: false accepts by kind of speech, misses, curves, int8 against float; imports runtime.audio,
runtime.bundle, runtime.errors, training.data, training.metrics, training.windows and export.folder."""
