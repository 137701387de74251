"""The page that shows what the listener hears, and its server; imports runtime.audio, runtime.config_edit,
runtime.credit, runtime.errors, runtime.options, runtime.sinks and runtime.status."""
