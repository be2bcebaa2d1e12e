"""Networks followed once: their modules (follow.py) become a plan (plan.py), which a function of C++ runs (library.py),
and which a file holds (file.py)."""
