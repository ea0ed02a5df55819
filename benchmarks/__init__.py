"""What the model and the service cost, against what people would use instead. `python -m benchmarks --list`."""
