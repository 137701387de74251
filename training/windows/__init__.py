"""Training windows: composed of recordings, augmented, labelled, kept; imports training.data, training.model,
training.recipe and training.voices."""
