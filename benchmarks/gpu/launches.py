"""The launches of a compiled network on a GPU: the paper's, as tests/gpu/test_engine_on_gpu.py counts them."""

# Launches per chunk; and per run in addition, where int16 and int8 also round the inputs.
LAUNCHES_OF_CHUNK, LAUNCHES_OF_RUN = 9, {"float32": 14, "float16": 14, "int16": 32, "int8": 32}
