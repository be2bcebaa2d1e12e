"""Training: networks, methods, steps and runs."""

import os

# Torch's large tensors in huge pages, where Linux offers them: training takes a twentieth less time. Torch looks once,
# when it is imported. The kernels ask for theirs themselves (kernels/heap.py).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
