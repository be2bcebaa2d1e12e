/* proxykernels in C: runs a spiking network from a file that Engine.save wrote in Python, without Python.
 *
 *     pk_error error;
 *     pk_network *network = NULL;
 *     pk_stream *stream = NULL;
 *     int32_t counts[10];
 *     if (pk_network_open("net.pk", NULL, &network, &error) ||
 *         pk_stream_open(network, 1, 0, &stream, &error) ||
 *         pk_run(stream, PK_IMAGE, pixels, 28 * 28, 4, &error) ||
 *         pk_counts(stream, counts, 10, &error))
 *         fprintf(stderr, "%s\n", error.sentence);
 *     pk_stream_close(&stream);
 *     pk_network_close(&network);
 *
 * Spikes are equal, bit by bit, to those of pk.load(...) in Python, on every processor, for networks of precision int8 or
 * int16, and wherever float32 sums are exact. Elsewhere the order of sums may differ, as it does in Python between processors.
 *
 * Words: N samples (the stream's batch), T steps, C channels of H x W pixels. Features are channels of 1 x 1 pixels, a row
 * [C, L] has 1 x L. Arrays lie in C's order: of [T, N, C, H, W] the last index is that of neighbours. The size of an array is
 * given as its number of elements, always, and must be right.
 *
 * Errors: a function returns a status, PK_OK (0) or what went wrong. If `error` is not NULL it then holds the same status and a
 * sentence. What is written elsewhere is looked at after PK_OK alone; a stream is as it was before a call that failed, but
 * for PK_NO_MEMORY in pk_run and pk_advance, which leave it at rest.
 *
 * Threads: there are no global variables. A network never changes, and any number of threads may use it at once. A stream
 * belongs to one caller at a time: PK_BUSY if two threads call it at once. Streams of one network run side by side.
 */
#ifndef PROXYKERNELS_H
#define PROXYKERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(PK_API)
/* as the build says */
#elif defined(__GNUC__)
#define PK_API __attribute__((visibility("default")))
#else
#define PK_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Errors ------------------------------------------------------------------------------------------------------ */

typedef enum pk_status {
    PK_OK = 0,
    PK_BAD_ARGUMENT = 1, /* NULL, a wrong size, a value out of range, or a handle of another kind */
    PK_NO_FILE = 2,      /* it is not there, or cannot be read */
    PK_BAD_FILE = 3,     /* no engine's file, of another version, or damaged */
    PK_NO_MEMORY = 4,
    PK_NOT_FINITE = 5, /* the input holds NaN, or values beyond 2^100 */
    PK_NOT_HERE = 6,   /* the machine lacks the instruction set, or the network has no such output */
    PK_BUSY = 7        /* another thread is using the stream */
} pk_status;

enum { PK_SENTENCE = 512 };
typedef struct pk_error {
    int32_t status;             /* a pk_status */
    char sentence[PK_SENTENCE]; /* in English, UTF-8, ends in 0 */
} pk_error;

/* The version of the library, such as "0.2.0". */
PK_API const char* pk_version(void);

/* ---- Networks ---------------------------------------------------------------------------------------------------- */

typedef struct pk_network pk_network;

/* Reads a network from a file, checks all of it, and packs its weights for this machine.
 *
 * target: the instruction set: "amx", "avx512", "avx2" or "portable", as far as the library was built for them; NULL: the
 *     fastest that the machine has, at most that which the environment variable PROXYKERNELS_CPU names.
 * network: written; close it by pk_network_close.
 * Fails with PK_NO_FILE, PK_BAD_FILE, PK_NO_MEMORY, PK_NOT_HERE. */
PK_API pk_status pk_network_open(const char* path, const char* target, pk_network** network, pk_error* error);

/* The same, of a file's bytes in memory. They are copied, and may be freed afterwards. */
PK_API pk_status pk_network_read(const void* bytes, size_t size, const char* target, pk_network** network, pk_error* error);

/* Closes a network, and sets *network to NULL. Its memory is freed once its last stream is closed, too. NULL is all right. */
PK_API void pk_network_close(pk_network** network);

typedef struct pk_info {
    int64_t C, H, W;             /* of a sample of the input */
    int64_t dims;                /* how many of these its shape has in Python: 1 [C], 2 [C, W], 3 [C, H, W] */
    int64_t out_C, out_H, out_W; /* of the output, per sample and step */
    int64_t layers;              /* numbered from 0; the last one gives the output */
    int64_t parameters;          /* weights, biases and thresholds */
    int64_t packed_bytes;        /* of the weights in memory */
    int32_t takes_values;        /* whether the input may be real values: all of pk_input but PK_SPIKES */
    int32_t takes_spikes;        /* whether it may be PK_SPIKES */
    int32_t is_sigma_delta;      /* whether neurons send signed powers of two; the output is values then */
    int32_t fires;               /* whether the last layer gives spikes, which pk_counts counts; else values */
    int32_t has_logits;          /* whether pk_logits has an answer */
    char precision[16];          /* "float32", "int16" or "int8" */
    char target[16];             /* the instruction set that was taken */
} pk_info;

PK_API pk_status pk_network_info(const pk_network* network, pk_info* info, pk_error* error);

typedef struct pk_layer {
    char name[64];      /* of the module in Python, cut if it is longer, such as "features.3"; "" for what has none */
    char kind[32];      /* such as "neurons", "max pool", "flatten", "sigma-delta" */
    char neuron[32];    /* the model of neurons, such as "SoftReset"; "" if there are none */
    int64_t C, H, W;    /* of what it gives, per sample and step */
    int64_t dims;       /* as of pk_info */
    int64_t parameters; /* as of pk_info */
    int64_t state_size; /* values of its state, per sample; 0: it has none */
    int32_t gives;      /* a pk_gives */
    int32_t reads;      /* number of inputs: of layers, or of the network */
} pk_layer;

typedef enum pk_gives {
    PK_GIVES_SPIKES = 0, /* 0 or 1 */
    PK_GIVES_VALUES = 1, /* real values: potentials of a readout, averages, changes */
    PK_GIVES_EITHER = 2, /* what it reads, moved or pooled: spikes of spikes, values of values */
    PK_GIVES_SIGNED = 3 /* sigma-delta: 0, or +-(k + 1) for a spike of +-2^-k of the threshold */
} pk_gives;

/* Fails with PK_BAD_ARGUMENT for a layer that is not 0 to layers - 1. */
PK_API pk_status pk_layer_info(const pk_network* network, int64_t layer, pk_layer* info, pk_error* error);

/* The slot that a layer reads: *source is -1 for the network's input, else a layer. input: 0 to reads - 1. */
PK_API pk_status pk_layer_source(const pk_network* network, int64_t layer, int64_t input, int64_t* source, pk_error* error);

/* ---- Inputs ------------------------------------------------------------------------------------------------------ */

/* What the data of pk_run and pk_advance are. */
typedef enum pk_input {
    PK_IMAGE = 0, /* float [N, C, H, W]: held for all steps */
    PK_FRAMES = 1, /* float [T, N, C, H, W]: new values at each step */
    PK_SPIKES = 2, /* uint8 [N, T, H * W, ceil(C / 8)]: bit c % 8 of byte c / 8 is channel c; other bits are 0 */
    PK_BYTE_IMAGE = 3, /* uint8 [N, C, H, W], each the value byte / 255, held */
    PK_BYTE_FRAMES = 4 /* uint8 [T, N, C, H, W], each the value byte / 255 */
} pk_input;

/* Packs spikes for PK_SPIKES.
 *
 * dense: [T, N, C, H, W], each 0 or 1. packed: uint8 [N, T, H * W, ceil(C / 8)], written; packed_size in bytes.
 * Fails with PK_BAD_ARGUMENT if a value is neither 0 nor 1, or a size is wrong. */
PK_API pk_status pk_pack_spikes(const uint8_t* dense, int64_t T, int64_t N, int64_t C, int64_t H, int64_t W, uint8_t* packed,
                                size_t packed_size, pk_error* error);

/* Packs events of a camera for PK_SPIKES, of one sample of 2 channels (0: OFF, 1: ON): one bit for a pixel, polarity and step,
 * 1 if there was at least one event. As pk.events(t, x, y, p, size=(H, W), dt=dt, T=T) in Python.
 *
 * t, x, y, p: [events], in any order: time, column, row, and polarity, 1 for ON, 0 or -1 for OFF.
 * begin: time at which step 0 begins. An event is of step (t - begin) * T / span, rounded down.
 * span: time that the T steps take together; for steps of length dt it is T * dt.
 * packed: uint8 [T, H * W], written; packed_size in bytes.
 * Fails with PK_BAD_ARGUMENT if an event lies outside of the sensor, the steps or the polarities. */
PK_API pk_status pk_pack_events(const int64_t* t, const int32_t* x, const int32_t* y, const int8_t* p, int64_t events,
                                int64_t begin, int64_t span, int64_t T, int64_t H, int64_t W, uint8_t* packed,
                                size_t packed_size, pk_error* error);

/* ---- Streams ----------------------------------------------------------------------------------------------------- */

/* A network with a state, the memory that runs work on, and the outputs of the last call. */
typedef struct pk_stream pk_stream;

/* batch: N, the number of samples of each call, at least 1.
 * threads: that a call may use; 0: as many as the environment variable OMP_NUM_THREADS says, or as the process has processors.
 * stream: written; close it by pk_stream_close. It is at rest. */
PK_API pk_status pk_stream_open(const pk_network* network, int64_t batch, int64_t threads, pk_stream** stream, pk_error* error);

/* Closes a stream, and sets *stream to NULL. NULL is all right. */
PK_API void pk_stream_close(pk_stream** stream);

/* Keeps what a layer gives at each step of later calls, for pk_layer_spikes and pk_layer_values; keep = 0: no longer. It takes
 * memory, T * N * C * H * W bytes or floats, and the time to write it. The last layer is kept always. */
PK_API pk_status pk_watch(pk_stream* stream, int64_t layer, int32_t keep, pk_error* error);

/* Runs T steps from rest, and forgets the state afterwards: for images and recordings that come by themselves. Faster than
 * pk_reset and pk_advance.
 *
 * input: a pk_input, what `data` is; size: its number of elements. T: at least 1.
 * Fails with PK_BAD_ARGUMENT, PK_NOT_FINITE, PK_NO_MEMORY, PK_BUSY. */
PK_API pk_status pk_run(pk_stream* stream, int32_t input, const void* data, size_t size, int64_t T, pk_error* error);

/* The same for recordings of different lengths: sample n ends after lengths[n] steps, 1 to T, and everything is as if it had run
 * alone. Behind its end the data are checked, but change nothing; its spikes are 0, and the values of the last layer stay as they
 * were. What pk_watch keeps is 0 there.
 *
 * lengths: [N]; count: N. */
PK_API pk_status pk_run_lengths(pk_stream* stream, int32_t input, const void* data, size_t size, int64_t T,
                                const int64_t* lengths, size_t count, pk_error* error);

/* Goes on for T steps from where the stream is, and keeps its state. Counts and work add up until pk_reset. */
PK_API pk_status pk_advance(pk_stream* stream, int32_t input, const void* data, size_t size, int64_t T, pk_error* error);

/* Back to rest: no steps, no counts. */
PK_API pk_status pk_reset(pk_stream* stream, pk_error* error);

/* The same of one sample, 0 to batch - 1, whose state, counts, logits and steps begin again; the others go on.
 * Fails with PK_NOT_HERE for a network of sigma-delta neurons that has taken a step. */
PK_API pk_status pk_reset_sample(pk_stream* stream, int64_t sample, pk_error* error);

/* ---- Outputs ----------------------------------------------------------------------------------------------------- */

/* Steps of pk_run, or since rest of all calls of pk_advance: of the sample that has taken most. */
PK_API pk_status pk_steps(pk_stream* stream, int64_t* steps, pk_error* error);

/* The same of each sample, which pk_reset_sample begins again. steps: [N], written; size: N. */
PK_API pk_status pk_sample_steps(pk_stream* stream, int64_t* steps, size_t size, pk_error* error);

/* Spikes of the last layer in these steps. counts: [N, C, H, W] of the output, written.
 * Fails with PK_NOT_HERE if the last layer gives values. */
PK_API pk_status pk_counts(pk_stream* stream, int32_t* counts, size_t size, pk_error* error);

/* The outputs of the ReLU network that the network was converted from, as far as these steps tell them.
 * logits: [N, C, H, W] of the output, written. Needs a step.
 * Fails with PK_NOT_HERE if the network was not converted, or if its last neurons lose charge (a hard reset). */
PK_API pk_status pk_logits(pk_stream* stream, float* logits, size_t size, pk_error* error);

/* What a layer gave at each step of the last call: spikes [T, N, C, H, W] of its C, H, W, each 0 or 1, of sigma-delta neurons
 * signed (PK_GIVES_SIGNED), written. T is that of the last call alone.
 * Fails with PK_NOT_HERE if it gave values, or was not kept (pk_watch) when the call was made. */
PK_API pk_status pk_layer_spikes(pk_stream* stream, int64_t layer, int8_t* spikes, size_t size, pk_error* error);

/* The same of a layer that gives values; of sigma-delta neurons these are the signed powers of two themselves, and of others'
 * spikes 0 and 1. */
PK_API pk_status pk_layer_values(pk_stream* stream, int64_t layer, float* values, size_t size, pk_error* error);

typedef struct pk_work {
    int64_t spikes; /* of the layer; 0 if it gives values */
    int64_t additions; /* of a weight to a sum, for a spike */
    int64_t multiplications; /* of a weight by a real value; of held values once a call */
} pk_work;

/* What a layer did in the steps of pk_run, or since rest; layer = -1: all of them together. */
PK_API pk_status pk_layer_work(pk_stream* stream, int64_t layer, pk_work* work, pk_error* error);

/* ---- States ------------------------------------------------------------------------------------------------------ */

/* The whole state of a stream: of its layers, with counts, steps, work and what logits count from. pk_state_restore takes a
 * stream of the same network and batch to where it was, and what comes then is what came after pk_state_save. The bytes are of
 * this machine and version of the library; what they hold is checked.
 *
 * bytes: that pk_state_save writes. They stay as many as long as the stream is open.
 * pk_state_restore fails with PK_BAD_ARGUMENT, PK_NOT_FINITE. */
PK_API pk_status pk_state_size(pk_stream* stream, size_t* bytes, pk_error* error);
PK_API pk_status pk_state_save(pk_stream* stream, void* state, size_t bytes, pk_error* error);
PK_API pk_status pk_state_restore(pk_stream* stream, const void* state, size_t bytes, pk_error* error);

/* The state of a layer after the last step of pk_advance, or at rest: N * state_size values, written. It is
 * float [N, states, H * W, C] of the layer's potentials and further states; of a pooling [N, H * W, C] of its inputs' sums; of
 * sigma-delta neurons z of all samples [N, H * W, C] and then a. */
PK_API pk_status pk_state_read(pk_stream* stream, int64_t layer, float* state, size_t size, pk_error* error);

/* Sets the state of one layer, in the same form; other layers stay as they are. Steps and counts stay as well, and logits do not
 * count as input what is added here. Fails with PK_NOT_FINITE. */
PK_API pk_status pk_state_write(pk_stream* stream, int64_t layer, const float* state, size_t size, pk_error* error);

/* Bytes that the stream works on, as far as calls have written to them. */
PK_API pk_status pk_memory(pk_stream* stream, int64_t* bytes, pk_error* error);

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* PROXYKERNELS_H */
