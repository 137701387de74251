"""Audio → hops: files, standard input, microphones; imports nothing else of ours."""
