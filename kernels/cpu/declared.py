"""Made by headers.py: change the headers in src/. A build writes this file anew."""

from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_float, c_int64, c_uint64, c_void_p

# fmt: off

class Neuron(Structure):
    _fields_ = [("channels", c_void_p), ("stride", c_int64), ("model", c_int64), ("scalars", c_float * 4)]

class Neurons(Structure):
    _fields_ = [("neuron", Neuron), ("start", c_void_p), ("v", c_void_p), ("spikes", c_void_p), ("start_image",
     c_int64), ("start_state", c_int64), ("start_pixel", c_int64), ("T", c_int64), ("N", c_int64), ("P", c_int64), ("C",
     c_int64), ("currents", c_void_p)]

class Scan(Structure):
    _fields_ = [("neurons", Neurons), ("current", c_void_p), ("time_stride", c_int64), ("counts", c_void_p)]

class Surrogate(Structure):
    _fields_ = [("shape", c_int64), ("numbers", c_float * 2), ("detach_reset", c_int64)]

class ScanBackward(Structure):
    _fields_ = [("neuron", Neuron), ("surrogate", Surrogate), ("v", c_void_p), ("current", c_void_p), ("time_stride",
     c_int64), ("grad_spikes", c_void_p), ("grad_v_last", c_void_p), ("grad_current", c_void_p), ("grad_v", c_void_p),
     ("grad_parameters", c_void_p), ("T", c_int64), ("N", c_int64), ("P", c_int64), ("C", c_int64)]

class RecurrentBackward(Structure):
    _fields_ = [("scan", ScanBackward), ("weight", c_void_p), ("back", c_void_p), ("stride", c_int64), ("full",
     c_int64)]

class Conv2d(Structure):
    _fields_ = [("neurons", Neurons), ("x", c_void_p), ("weight", c_void_p), ("bias", c_void_p), ("unit", c_void_p),
     ("shortcut", c_void_p), ("digits", c_int64), ("row_channels", c_int64), ("slice_rows", c_int64), ("negated",
     c_int64), ("groups", c_int64), ("C_in", c_int64), ("H", c_int64), ("W", c_int64), ("W_out", c_int64), ("kernel_h",
     c_int64), ("kernel_w", c_int64), ("stride_h", c_int64), ("stride_w", c_int64), ("padding_h", c_int64),
     ("padding_w", c_int64), ("dilation_h", c_int64), ("dilation_w", c_int64), ("x_image", c_int64)]

class SigmaDelta(Structure):
    _fields_ = [("x", c_void_p), ("weight", c_void_p), ("bias", c_void_p), ("added", c_void_p), ("limit", c_void_p),
     ("codes", c_void_p), ("arrived", c_void_p), ("z", c_void_p), ("a", c_void_p), ("added_scale", c_float), ("lowest",
     c_float), ("threshold", c_float), ("unit", c_float), ("exponents", c_int64), ("real", c_int64), ("N", c_int64),
     ("T", c_int64), ("T_in", c_int64), ("P", c_int64), ("C", c_int64), ("C_in", c_int64), ("H", c_int64), ("W",
     c_int64), ("W_out", c_int64), ("kernel_h", c_int64), ("kernel_w", c_int64), ("stride_h", c_int64), ("stride_w",
     c_int64), ("padding_h", c_int64), ("padding_w", c_int64), ("dilation_h", c_int64), ("dilation_w", c_int64),
     ("groups", c_int64)]

class Rounding(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("rounded", c_void_p), ("rounded_bias", c_void_p), ("unit",
     c_void_p), ("C", c_int64), ("inputs", c_int64), ("largest", c_double), ("room", c_double), ("half_room", c_double)]

class WeightGradient(Structure):
    _fields_ = [("conv", Conv2d), ("grad_current", c_void_p), ("grad_weight", c_void_p)]

class Periods(Structure):
    _fields_ = [("current", c_void_p), ("neuron", Neuron), ("v", c_void_p), ("periods", c_void_p), ("M", c_int64), ("C",
     c_int64), ("T", c_int64)]

class Sample(Structure):
    _fields_ = [("spikes", c_void_p), ("N", c_int64), ("T", c_int64), ("P", c_int64), ("C", c_int64), ("image",
     c_int64), ("step", c_int64), ("pixel", c_int64), ("rate", c_double), ("rows", c_double), ("negated_rows",
     c_double)]

class Pool2d(Structure):
    _fields_ = [("x", c_void_p), ("y", c_void_p), ("M", c_int64), ("H", c_int64), ("W", c_int64), ("bytes", c_int64),
     ("H_out", c_int64), ("W_out", c_int64), ("kernel_h", c_int64), ("kernel_w", c_int64), ("stride_h", c_int64),
     ("stride_w", c_int64), ("padding_h", c_int64), ("padding_w", c_int64)]

class MaxRatePool(Structure):
    _fields_ = [("pool", Pool2d), ("counts", c_void_p), ("T", c_int64), ("C", c_int64)]

class PoolBackward(Structure):
    _fields_ = [("pool", Pool2d), ("grad_y", c_void_p), ("grad_x", c_void_p), ("T", c_int64), ("N", c_int64), ("C",
     c_int64)]

class DenseSpikes(Structure):
    _fields_ = [("dense", c_void_p), ("spikes", c_void_p), ("size", c_int64), ("is_float", c_int64), ("one", c_uint64),
     ("T", c_int64), ("N", c_int64), ("C", c_int64), ("H", c_int64), ("W", c_int64), ("step", c_int64), ("image",
     c_int64), ("channel", c_int64), ("row", c_int64), ("pixel", c_int64)]

class Column(Structure):
    _fields_ = [("values", c_void_p), ("stride", c_int64), ("size", c_int64), ("is_signed", c_int64)]

class Events(Structure):
    _fields_ = [("t", Column), ("x", Column), ("y", Column), ("p", Column), ("n", c_int64), ("first", c_int64),
     ("numerator", c_int64), ("denominator", c_int64), ("T", c_int64), ("H", c_int64), ("W", c_int64), ("spikes",
     c_void_p)]

class ConvSizes(Structure):
    _fields_ = [("T", c_int64), ("N", c_int64), ("P", c_int64), ("C", c_int64), ("H", c_int64), ("W", c_int64), ("C_in",
     c_int64), ("kernel_h", c_int64), ("kernel_w", c_int64), ("padding_w", c_int64), ("dilation_h", c_int64),
     ("dilation_w", c_int64)]

class Adding(Structure):
    _fields_ = [("add", c_double), ("visit", c_double), ("fire", c_double), ("scan", c_double), ("list", c_double),
     ("list_slice", c_double), ("list_tap", c_double), ("list_spike", c_double), ("start", c_double), ("start_tap",
     c_double), ("fetch", c_double), ("call", c_double)]

class Lookup(Structure):
    _fields_ = [("look_up", c_double), ("block", c_double), ("table", c_double), ("read", c_double), ("read_tap",
     c_double), ("fetch", c_double), ("call", c_double)]

class Tiles(Structure):
    _fields_ = [("multiply", c_double), ("fire", c_double), ("list", c_double), ("expand", c_double), ("fetch",
     c_double), ("call", c_double)]

class Dense(Structure):
    _fields_ = [("multiply", c_double), ("fire", c_double), ("move", c_double), ("unpack", c_double), ("call",
     c_double)]

class Patterns(Structure):
    _fields_ = [("add", c_double), ("start", c_double), ("fire", c_double)]

class Work(Structure):
    _fields_ = [("events", Adding), ("shorts", Adding), ("bytes", Adding), ("lookup", Lookup), ("tiles", Tiles),
     ("dense", Dense)]

class Cycles(Structure):
    _fields_ = [("events", c_double), ("shorts", c_double), ("bytes", c_double), ("lookup", c_double), ("tiles",
     c_double), ("dense", c_double)]

class Machine(Structure):
    _fields_ = [("costs", Work), ("engine_tiles", Tiles), ("pixel_tiles", Tiles), ("patterns", Patterns), ("slice_rows",
     c_int64)]

class Model(Structure):
    _fields_ = [("machines", Machine * 2), ("count", CFUNCTYPE(None, POINTER(ConvSizes), c_double, c_int64, c_int64,
     POINTER(Work))), ("cycles", CFUNCTYPE(None, POINTER(ConvSizes), c_double, c_int64, c_int64, POINTER(Cycles))),
     ("join", CFUNCTYPE(c_int64, c_int64, c_int64, c_int64))]

class Cost(Structure):
    _fields_ = [("silent", c_double), ("busy", c_double)]

class Kept(Structure):
    _fields_ = [("v", c_void_p)]

class Shown(Structure):
    _fields_ = [("spikes", c_void_p), ("values", c_void_p)]

class Readout(Structure):
    _fields_ = [("theta", c_void_p), ("start", c_void_p), ("scale", c_void_p), ("C", c_int64), ("P", c_int64),
     ("lowest", c_float), ("highest", c_float)]

class Run(Structure):
    _fields_ = [("x", c_void_p), ("kind", c_int64), ("rounds", c_int64), ("scaled", c_int64), ("T", c_int64), ("N",
     c_int64), ("threads", c_int64), ("fresh", c_int64), ("goes_on", c_int64), ("spikes", c_void_p), ("values",
     c_void_p), ("counts", c_void_p), ("kept", POINTER(Kept)), ("tally", c_void_p), ("stop", CFUNCTYPE(None, c_void_p,
     c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_void_p)), ("stop_every", c_int64), ("stop_reads", c_int64),
     ("stop_at", c_void_p), ("stops", c_int64), ("context", c_void_p), ("steps", c_void_p), ("may_go_on",
     CFUNCTYPE(c_int64, c_void_p)), ("steps_so_far", c_void_p), ("shown", POINTER(Shown)), ("took", c_void_p),
     ("logits", c_void_p), ("readout", POINTER(Readout)), ("logits_of", c_int64), ("neurons", POINTER(Neurons)),
     ("shortcut", c_void_p), ("changes", POINTER(SigmaDelta))]

class Lead(Structure):
    _fields_ = [("of", Readout), ("least", c_float)]

class Sizes(Structure):
    _fields_ = [("weights", c_int64), ("arena", c_int64), ("refused", c_int64)]

class Piece(Structure):
    _fields_ = [("bytes", c_void_p), ("size", c_int64)]

class Handed(Structure):
    _fields_ = [("name", c_char_p), ("data", c_void_p), ("type", c_int64), ("dims", c_int64), ("shape", c_int64 * 4)]

class LayerChoice(Structure):
    _fields_ = [("runner", c_int64), ("is_long", c_int64), ("thresholds", c_int64)]

class Functions(Structure):
    _fields_ = [("make_plan", CFUNCTYPE(c_void_p, c_void_p, c_int64)), ("free_plan", CFUNCTYPE(None, c_void_p)),
     ("make_session", CFUNCTYPE(c_void_p, c_void_p)), ("free_session", CFUNCTYPE(None, c_void_p)), ("run",
     CFUNCTYPE(c_int64, c_void_p, POINTER(Run))), ("states", CFUNCTYPE(c_int64, c_void_p, c_int64, c_void_p, c_void_p,
     c_int64)), ("sizes", CFUNCTYPE(None, c_void_p, POINTER(Sizes))), ("fingerprint", CFUNCTYPE(c_uint64, c_void_p,
     c_int64)), ("hash", CFUNCTYPE(c_uint64, c_void_p, POINTER(Piece), c_int64, c_int64)), ("way", CFUNCTYPE(c_int64,
     c_void_p, c_int64)), ("leads", CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int64,
     c_void_p))]

class Kernels(Structure):
    _fields_ = [("if_scan", CFUNCTYPE(None, POINTER(Scan))), ("scan_backward", CFUNCTYPE(None, POINTER(ScanBackward))),
     ("recurrent_scan_backward", CFUNCTYPE(None, POINTER(RecurrentBackward))), ("conv2d_weight_gradient",
     CFUNCTYPE(None, POINTER(WeightGradient))), ("max_pool2d_backward", CFUNCTYPE(None, POINTER(PoolBackward))),
     ("im2col", CFUNCTYPE(None, POINTER(Conv2d), c_void_p)), ("round_weights", CFUNCTYPE(None, POINTER(Rounding))),
     ("max_pool2d", CFUNCTYPE(None, POINTER(Pool2d))), ("max_rate_pool2d", CFUNCTYPE(None, POINTER(MaxRatePool))),
     ("row_channels", CFUNCTYPE(c_int64, c_void_p, c_int64, c_int64, c_void_p)), ("count_digits", CFUNCTYPE(c_int64,
     c_void_p, c_void_p, c_int64, c_int64)), ("first_and_last", CFUNCTYPE(None, POINTER(Column), c_int64, c_void_p)),
     ("pack_events", CFUNCTYPE(c_int64, POINTER(Events))), ("pack", CFUNCTYPE(c_int64, POINTER(DenseSpikes))),
     ("unpack", CFUNCTYPE(None, POINTER(DenseSpikes))), ("count", CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_int64,
     c_int64, c_int64, c_int64)), ("flatten", CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_int64, c_int64)), ("total",
     CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_int64, c_int64)), ("sample_rates", CFUNCTYPE(None,
     POINTER(Sample))), ("find_periods", CFUNCTYPE(None, POINTER(Periods))), ("expand_periods", CFUNCTYPE(None,
     c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)), ("total_periods", CFUNCTYPE(None, c_void_p,
     c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)), ("fingerprint", CFUNCTYPE(c_uint64, c_void_p, c_int64)),
     ("max_threads", CFUNCTYPE(c_int64))]
