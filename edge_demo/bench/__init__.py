"""What a bundle costs, beside torch and beside others' detectors, and whether it holds for days; imports runtime.audio,
runtime.bundle, training.data and training.model."""
