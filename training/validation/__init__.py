"""How good a model is while it is trained, on recordings of the validation split; imports training.data,
training.metrics, training.model, training.recipe and training.windows."""
