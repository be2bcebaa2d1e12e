"""Parts of evaluate.py: accuracy at every number of steps, early exit, remedies for few steps."""
