"""Names that stood on top of the package in 0.1. They live in the module of their kind; on top they warn."""

import warnings
from importlib import import_module
from typing import Any

HOMES = {
    "functional": ("if_scan_surrogate",),
    "layers": ("AdaptiveAvgPool1d", "AvgPool1d", "FusedConv1d", "MaxPool1d", "MaxRatePool1d", "RunningMaxPool1d"),
    "stop": ("margin", "settled"),
}


def __getattr__(name: str) -> Any:  # the package takes it for its own
    for home, names in HOMES.items():
        if name in names:
            warnings.warn(
                f"{__package__}.{name} has moved: use {__package__}.{home}.{name}", DeprecationWarning, stacklevel=2
            )
            return getattr(import_module(f".{home}", __package__), name)
    package = import_module(__package__)
    raise AttributeError(f"module {__package__!r} has no attribute {name!r}", name=name, obj=package)
