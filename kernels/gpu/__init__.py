"""Triton kernels for CUDA tensors. Importing the package itself needs no Triton.

Words of this folder, beside those of CUDA:

program         an instance of a kernel, as Triton calls it: one cooperative thread array (CTA, a thread block)
word            32 steps of spikes of one neuron, an int32 (words.py)
row, column     of the convolution as a matrix product: an output pixel at a step, a row of the im2col matrix; an output
                channel
A operand       the matrix of spikes; an A fragment is what one thread has of it in registers (spike_operands.py)
main loop       the products of spikes and weights, which are added up in the accumulator (conv2d_kernel.py)
epilogue        what follows in the same launch: the accumulator as steps, neurons, words (conv2d_kernel.py)
part, digit     a term of split weights, with a product of its own; a digit is an int8 part (weight_parts.py)
"""
