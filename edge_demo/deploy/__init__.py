"""A bundle onto a device: over ssh, onto a card, as an image; imports runtime.bundle, runtime.errors, runtime.files and
runtime.options."""
