"""Who wants to know of detections: a terminal, a command, an LED, clips, an MQTT broker, the dashboard; imports
runtime.audio, runtime.errors, runtime.journal, runtime.sample_rate, runtime.sinks.dashboard and runtime.status."""
