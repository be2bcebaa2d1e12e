"""Parts of gpu_speed.py: what it measures, and the rivals that only a GPU can run. compiled/ needs no GPU.

kernels/gpu/__init__.py explains the words: program, word, A operand, main loop, epilogue.
"""
