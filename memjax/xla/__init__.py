"""What XLA's compiled program holds at its own peak, from its buffer assignment and schedule."""
