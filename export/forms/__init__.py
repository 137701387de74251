"""A trained model in the forms that a bundle holds."""
