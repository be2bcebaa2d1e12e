"""Parts of gpu_speed.py: what it measures and compiles, and the rivals that only a GPU can run.

kernels/gpu/__init__.py explains the words: program, word, A operand, main loop, epilogue.
"""
