"""Kernels compiled for GPUs that need not be there, and what is read from their code: what they take, which numbers
they pack, what is wrong with them. It serves changes of kernels; what measures the GPU at hand is in the folder above.
"""
