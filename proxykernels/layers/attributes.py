"""The parameters of a layer's neurons: attributes of the layer, numbers or tensors, and entries of its state_dict."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import checks, surrogates
from ..kernels import heap
from ..neurons import AnyNeuron, neuron_checks

LARGEST = torch.finfo(torch.float32).max
SOFT = math.inf  # in a state_dict, of a v_reset that is None


class NeuronAttributes(nn.Module):
    """A layer's neurons, where they start, and what their spikes stand for.

    A value that is a tensor is a buffer. A number stays one, which a GPU need not be asked for; beside it there is an
    empty buffer of its name, where torch.func.functional_call puts the tensor that a state_dict has for it.

    The state_dict has them all, numbers as float64 tensors without dimensions; a ``v_reset`` of None is infinity there.
    """

    _kind: type[AnyNeuron]  # whose fields the attributes are
    v_threshold: float | Tensor
    v_reset: float | None
    v_init: float | Tensor  # a tensor: of each channel
    scale: float | Tensor | None  # what a spike a step stands for in the ReLU network that convert was given

    def _set_neurons(self, neuron: AnyNeuron, v_init: float | Tensor | None = None) -> None:
        """``v_init`` None: at rest."""
        if not isinstance(neuron, AnyNeuron):
            raise TypeError(
                f"neuron must be one of proxykernels.neurons, such as LIFNeuron(decay=0.9), got {type(neuron).__name__}"
            )
        neuron.check()
        if v_init is not None:
            checks.start("v_init", v_init, neuron.states)
        self._kind = type(neuron)
        for name in neuron.names():
            value = getattr(neuron, name)
            checks.no_gradient(name, value)
            self._set_value(name, value)
        self._set_value("v_init", neuron.rest if v_init is None else v_init)
        self._set_value("scale", None)

    def _set_value(self, name: str, value: float | Tensor | None) -> None:
        """Make ``value`` the attribute ``name``, one of ``neuron_attributes``."""
        self._forget(name)
        if isinstance(value, Tensor):
            self.register_buffer(name, value.detach().clone())
            return
        self.register_buffer(name, None)
        exact = value is None or name == "v_reset" or name in self._kind.scalars
        self.__dict__[name] = value if exact else float(value)  # type: ignore[arg-type]

    def _forget(self, name: str) -> None:
        self.__dict__.pop("_made", None)
        self.__dict__.pop(name, None)
        self._buffers.pop(name, None)

    def __setattr__(self, name: str, value: Any) -> None:
        """A number may replace a tensor, and a tensor a number."""
        if name == "surrogate":
            surrogates.check(value)
            self.__dict__[name] = value  # also a module, which is no part of the layer
        elif "_kind" not in self.__dict__ or name not in self.neuron_attributes:
            super().__setattr__(name, value)
        elif name in self._buffers:
            self._set_value(name, self._checked(name, value))
        else:
            self._set_learned(name, value)

    def _set_learned(self, name: str, value: Any) -> None:
        """Give a parameter that is learned a value of the shape that it has, or a number, or another nn.Parameter."""
        own, is_plain = getattr(self, name), name in self._parameters  # plain: without a parametrization
        if is_plain and isinstance(value, nn.Parameter):
            self._checked(name, value.detach())
            super().__setattr__(name, value)
            return
        self._checked(name, value)
        value = torch.as_tensor(value, dtype=own.dtype, device=own.device)
        if value.ndim and value.shape != own.shape:
            raise ValueError(
                f"{name} is learned in the shape {list(own.shape)}, which stays; got {list(value.shape)}: assign it "
                "before learn_neurons"
            )
        value = value.expand(own.shape).clone()
        if is_plain:
            with torch.no_grad():
                own.copy_(value)
        else:
            super().__setattr__(name, value)

    def _checked(self, name: str, value: Any) -> Any:
        """A value that the attribute ``name`` may have. Whether it goes with the others is looked at in a call, so that
        several can be assigned one after the other."""
        checks.no_gradient(name, value)
        if name == "v_init":
            if value is None:
                return self.neuron.rest
            checks.start(name, value, self._kind.states)
        elif name == "scale":
            if value is not None:
                neuron_checks.above_zero(name, value)
        else:
            kind: Any = self._kind
            others = {field: getattr(self, field) for field in kind.names() if not hasattr(kind, field)}  # no default
            others |= {"v_threshold": LARGEST} if "v_threshold" in kind.names() else {}  # above any reset
            kind(**others | {name: value}).check()
        return value

    @property
    def neuron_attributes(self) -> tuple[str, ...]:
        """The names of these attributes."""
        return *self._kind.names(), "v_init", "scale"

    @property
    def neuron(self) -> AnyNeuron:
        """The neuron value that a step needs in addition to states and currents."""
        given, buffers = False, self._buffers  # whether some parameters are tensors, perhaps of a functional_call
        kind: Any = self._kind
        for name in kind.__match_args__:
            given = given or buffers.get(name) is not None
        made = self.__dict__.get("_made")  # of numbers, which are checked once
        if made is not None and not given:
            return made
        made = kind(**{name: self._now(name) for name in kind.names()})
        if not (given or made.tensors() or torch.compiler.is_compiling()):
            self.__dict__["_made"] = made
        return made

    def _now(self, name: str) -> Any:
        """The value of the attribute ``name``; in a functional_call the value that was passed to it."""
        given = self._buffers.get(name)
        if given is None:
            return getattr(self, name)
        return given if given.ndim or name in self._kind.channelwise else self._number(name, given)

    def _number(self, name: str, saved: Tensor) -> float | int | None:
        """A number from its tensor in a state_dict."""
        if saved.numel() != 1:
            raise ValueError(f"{name} must be one number, got {list(saved.shape)}")
        value = saved.item()
        if name == "v_reset" and value == SOFT:
            return None
        kind = type(getattr(self._kind, name, value))  # of the default
        return kind(value) if kind in (int, bool) and math.isfinite(value) and value == int(value) else value

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.neuron_attributes:
            if name in self.__dict__ and not (name == "scale" and self.scale is None):
                value = self.__dict__[name]
                number = SOFT if value is None else value
                destination[prefix + name] = torch.as_tensor(number, dtype=torch.float64, device="cpu")

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        """Takes the values that were saved, of whatever kind; without them the layer keeps its own."""
        saved = {name: state_dict[prefix + name] for name in self.neuron_attributes if prefix + name in state_dict}
        learned = self._learned_values(state_dict, prefix)
        try:
            self._load_values({name: value for name, value in saved.items() if name in self._buffers}, learned)
        except (TypeError, ValueError) as error:
            given = saved | learned
            changed = [prefix + name for name, value in given.items() if not self._has(name, value)]
            errors.append(f"{', '.join(changed)}: {error}")
        taken = {prefix + name for name in saved if name in self.__dict__}  # torch expects tensors only
        state_dict = {key: tensor for key, tensor in state_dict.items() if key not in taken}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        for name in self.neuron_attributes:
            if prefix + name in missing:  # the state_dict of nn.Conv2d, or an older one of this package
                missing.remove(prefix + name)

    @torch.no_grad()
    def _learned_values(self, state_dict: dict[str, Any], prefix: str) -> dict[str, Tensor]:
        """What the parameters that are learned, which torch loads, will be; those that ``state_dict`` has whole."""
        values = {}
        for name in self.neuron_attributes:
            if parametrize.is_parametrized(self, name):
                rules: Any = self.parametrizations[name]  # type: ignore[index]  # an nn.ModuleDict
                start, own = f"{prefix}parametrizations.{name}.", rules.state_dict()
                given: Any = {key: state_dict.get(start + key) for key in own}
                if all(isinstance(given[key], Tensor) and given[key].shape == own[key].shape for key in own):
                    values[name] = torch.func.functional_call(rules, given, ())
            elif name in self._parameters and isinstance(state_dict.get(prefix + name), Tensor):
                values[name] = state_dict[prefix + name]
        return values

    def _load_values(self, saved: dict[str, Tensor], learned: dict[str, Tensor]) -> None:
        """Check all values, since one may be good only with another, and then take those that are ``saved``."""
        if not (saved or learned):
            return
        values: dict[str, Any] = {}
        for name, value in saved.items():
            checks.real(name, value)
            values[name] = value if value.ndim or name in self._kind.channelwise else self._number(name, value)
        fields = {name: value for name, value in (values | learned).items() if name in self._kind.names()}
        neuron = replace(self.neuron, **fields)
        neuron.check()
        checks.start("v_init", values.get("v_init", neuron.rest), neuron.states)
        neuron_checks.above_zero("scale", values.get("scale", 1.0))
        device = next((tensor.device for tensor in self.parameters()), None)
        for name, value in values.items():
            own = self._buffers[name]
            if not isinstance(value, Tensor):
                self._set_value(name, value)
            elif own is None or own.shape != value.shape:  # else it is torch's to copy
                self._set_value(name, value.to(device or value.device) if value.ndim else value.item())

    def _has(self, name: str, saved: Any) -> bool:
        """Whether an attribute has this value of a state_dict."""
        own = getattr(self, name)
        own = torch.as_tensor(SOFT if own is None else own, dtype=torch.float64, device=heap.CPU)
        return isinstance(saved, Tensor) and torch.equal(own, saved.double().cpu())
