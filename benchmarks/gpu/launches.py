"""The launches of a compiled network on a GPU: the paper's, as tests/gpu/test_engine_on_gpu.py counts them."""

# Of a chunk; and of a run besides, which for int16 and int8 rounds its inputs.
LAUNCHES_OF_CHUNK, LAUNCHES_OF_RUN = 9, {"float32": 14, "float16": 14, "int16": 32, "int8": 32}
