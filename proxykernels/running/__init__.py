"""Networks run for T steps: by their plan, whole (engine.py) or step by step (stream.py), or layer by layer
(simulate.py); what they are given (inputs.py) and what comes of it (result.py)."""
