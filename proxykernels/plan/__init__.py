"""Running a network for T steps: chunks, states, early exit, synaptic operations, 14-bit weights."""
