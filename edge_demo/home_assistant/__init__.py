"""The Wyoming wake-word server for Home Assistant; imports runtime.audio, runtime.bundle, runtime.credit,
runtime.errors, runtime.options, runtime.sample_rate and runtime.sinks.dashboard."""
