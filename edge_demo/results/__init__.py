"""Every recipe and its control, trained, measured and compared; imports edge_demo.bench, edge_demo.evaluate,
runtime.bundle, runtime.errors, training.data, training.metrics, training.model, training.recipe and export.int8."""
