"""The int8 candidates, their calibration, and the choice by measurement; imports export.audio, export.detector,
export.forms, export.step, export.verify, training.data, training.metrics and training.model."""
