"""A bundle's files checked, tried and run: from hops to scores to events; imports runtime.c, runtime.errors and
runtime.sample_rate."""
