"""Audio → hops: files, standard input, microphones; imports runtime.errors and runtime.sample_rate."""
