"""The versions of Triton that a supported torch asks for, each to be had for a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
# torch 2.10 and 2.11; 2.12.0; 2.12.1 and 2.13; and what 2.14 and 2.15 ask for.
TRITONS = ("3.6.0", "3.7.0", "3.7.1", "3.8.0", "3.9.0")
FOLDER = Path.home() / ".cache" / "proxykernels" / "tritons"  # of those that are installed for this


def installed(version: str, folder: Path) -> Path | None:
    """A folder to import that Triton from; None if it is the one of this Python."""
    import triton

    if triton.__version__ == version:
        return None
    path = folder / version
    if not (path / "triton" / "__init__.py").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(path)]
        subprocess.run([*command, f"triton=={version}"], check=True)
    return path


def environment(path: Path | None, cache: Path) -> dict[str, str]:
    """Environment variables for a process without Triton's interpreter that imports the Triton of a folder."""
    result = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    paths = [path, CHECKOUT, CHECKOUT / "benchmarks", CHECKOUT / "tests" / "gpu", result.get("PYTHONPATH")]
    result["PYTHONPATH"] = os.pathsep.join(str(part) for part in paths if part)
    return result | {"TRITON_CACHE_DIR": str(cache)}
