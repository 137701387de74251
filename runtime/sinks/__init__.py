"""Who wants to know of detections: a terminal, a command, an LED, clips, an MQTT broker, the dashboard; imports
runtime.audio, runtime.errors and runtime.journal."""
