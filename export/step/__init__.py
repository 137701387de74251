"""One hop of a model as a function with explicit states, its front end included; imports training.model."""
