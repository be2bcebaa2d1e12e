"""Networks compiled once: their modules are followed (follow.py) to a plan (plan.py), which one function of C++ runs
(library.py), whole (engine.py) or step by step (stream.py), and which a file holds (file.py)."""
