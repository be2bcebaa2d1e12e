"""Triton kernels for CUDA tensors. Importing the package itself needs no Triton.

Words of this folder, beside those of CUDA:

program         an instance of a kernel, as Triton calls it: what CUDA calls a thread block, and PTX a cooperative
                thread array (CTA)
word            32 steps of spikes of one neuron, as the bits of an int32; bit t is step t (words.py)
im2col row      the inputs in the window of one output pixel at one step, in a row; the matrix of all these rows times
                the weights is the convolution, and is never stored
row, column     of that product and of its result: an im2col row; an output channel
A operand       the left factor of a product on tensor cores, here rows of spikes; an A fragment is the part of it that
                one thread has in registers (spike_operands.py draws the order of rows)
main loop       the products, summed in the accumulator (conv2d_kernel.py); a pass takes BLOCK_K inputs of all rows
accumulator     the sums of all rows and columns of a program, in registers
epilogue        what follows the main loop in the same launch: the accumulator is split into steps, neurons take these
                as currents, their spikes become words (conv2d_kernel.py)
part, digit     a term of split weights, with a product of its own; a digit is an int8 part (weight_parts.py)
"""
