"""What a defect is."""

from dataclasses import dataclass

KERNELS = " ".join(f"tests/cpu/test_{name}.py" for name in ("exactness", "cpu_kernels"))


@dataclass(frozen=True)
class Defect:
    """``old`` in a file becomes ``new``; ``tests``: where somebody would look first."""

    file: str
    old: str
    new: str
    tests: str = KERNELS
