"""In a checkout the folder of kernels stands beside this package; once installed, in it. It is found in both."""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent

if not (HERE / "kernels").is_dir():
    spec = ModuleSpec(f"{__package__}.kernels", None, is_package=True)
    spec.submodule_search_locations = [str(HERE.parent / "kernels")]
    vars(sys.modules[__package__])["kernels"] = sys.modules.setdefault(spec.name, module_from_spec(spec))
