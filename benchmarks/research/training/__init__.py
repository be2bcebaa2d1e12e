"""The training program behind train.py and evaluate.py."""
