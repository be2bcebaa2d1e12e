"""Torch's large tensors in huge pages, where Linux offers them: training takes a twentieth less time.

Imported before torch, which looks once. The kernels ask for theirs themselves (kernels/heap.py).
"""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
