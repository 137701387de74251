"""What shows a bundle at work; imports runtime and training.model, and each folder says what it imports."""
