"""What every microphone, file and model agrees on."""

SAMPLE_RATE = 16_000  # Hz
