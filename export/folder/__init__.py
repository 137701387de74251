"""A bundle's folder, complete or absent: its files, its manifest, its operating point; imports export.detector,
export.forms and export.step."""
