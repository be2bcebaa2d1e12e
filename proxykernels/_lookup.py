"""Where the package finds its folder of kernels, and names that ``import proxykernels`` does not import.

Those of conversion, training and plots come when they are first used: the import takes a third less time.
Others stood on top of the package in 0.1. They live in the module of their kind; on top they warn.
"""

import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

LATER = {  # module -> its names; of plot the module itself
    "plot": ("plot",),
    "conversion.libraries.from_lava": ("from_lava",),
    "conversion.libraries.checkpoints": ("load_spikingjelly",),
    "conversion.libraries.from_libraries": ("from_snntorch", "from_spikingjelly"),
    "conversion.nir.data": ("from_nir_data", "to_nir_data"),
    "conversion.nir.from_nir": ("from_nir",),
    "conversion.nir.to_nir": ("to_nir",),
    "conversion.relu.convert": ("convert",),
    "conversion.relu.report": ("conversion_report", "model_card"),
    "training.proxy": ("ProxyNet",),
    "training.surrogate_net": ("SurrogateNet", "use_surrogate"),
}
MOVED = {
    "functional": ("if_scan_surrogate",),
    "layers": ("AdaptiveAvgPool1d", "AvgPool1d", "FusedConv1d", "MaxPool1d", "MaxRatePool1d", "RunningMaxPool1d"),
    "stop": ("margin", "settled"),
}

HERE = Path(__file__).resolve().parent

if not (HERE / "kernels").is_dir():  # in a checkout it stands beside this package; once installed, in it
    spec = ModuleSpec(f"{__package__}.kernels", None, is_package=True)
    spec.submodule_search_locations = [str(HERE.parent / "kernels")]
    vars(sys.modules[__package__])["kernels"] = sys.modules.setdefault(spec.name, module_from_spec(spec))


def __getattr__(name: str) -> Any:  # the package takes it for its own
    for home, names in (LATER | MOVED).items():
        if name in names:
            if home in MOVED:
                warnings.warn(
                    f"{__package__}.{name} has moved: use {__package__}.{home}.{name}", DeprecationWarning, stacklevel=2
                )
            found = import_module(f".{home}", __package__)
            return found if name == home else getattr(found, name)
    package = import_module(__package__)
    raise AttributeError(f"module {__package__!r} has no attribute {name!r}", name=name, obj=package)
