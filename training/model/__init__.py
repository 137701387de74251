"""The model family, its log-mel front end and its checkpoints; imports training.recipe, which a checkpoint carries."""
