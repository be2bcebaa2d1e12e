"""What tests/fuzz.py is made of: cases of each kind, how they are drawn, run, counted and shrunk."""
