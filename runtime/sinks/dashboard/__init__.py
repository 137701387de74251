"""The page that shows what the listener hears, and its server; imports runtime.audio, runtime.bundle,
runtime.config_edit, runtime.credit, runtime.errors, runtime.options, runtime.sample_rate, runtime.sinks and
runtime.status."""
