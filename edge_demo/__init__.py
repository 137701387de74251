"""What shows a bundle at work: evaluation, pictures, benchmarks, deployment. Knows bundles by runtime/ alone."""
