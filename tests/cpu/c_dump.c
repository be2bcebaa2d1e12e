/* What every layer of a network gives at every step, for comparisons: dump NET INPUT KIND N T run|stream
 *
 * INPUT: the data of pk_run in a file, of the pk_input KIND. On standard output: of each step the values of each layer, float32
 * [N, C, H, W], one layer after another; then the counts as int32, or what logits there are as float32. */
#include <proxykernels.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#endif

static pk_error error;

static void must(int status) {
    if (!status) return;
    fprintf(stderr, "dump: %s\n", error.sentence);
    exit(1);
}

static void* memory(size_t size) {
    void* const data = malloc(size ? size : 1);
    if (!data) exit(2);
    return data;
}

static void put(const void* data, size_t size, size_t count) {
    if (fwrite(data, size, count, stdout) != count) exit(3);
}

/* The values of all layers in the T steps of the last call. */
static void put_layers(const pk_network* network, pk_stream* stream, int64_t layers, int64_t N, int64_t T) {
    float** const values = memory((size_t)layers * sizeof *values);
    size_t* const sizes = memory((size_t)layers * sizeof *sizes);
    for (int64_t k = 0; k < layers; k++) {
        pk_layer about;
        must(pk_layer_info(network, k, &about, &error));
        sizes[k] = (size_t)(N * about.C * about.H * about.W);
        values[k] = memory((size_t)T * sizes[k] * sizeof(float));
        must(pk_layer_values(stream, k, values[k], (size_t)T * sizes[k], &error));
    }
    for (int64_t t = 0; t < T; t++)
        for (int64_t k = 0; k < layers; k++) put(values[k] + (size_t)t * sizes[k], sizeof(float), sizes[k]);
    for (int64_t k = 0; k < layers; k++) free(values[k]);
    free(values), free(sizes);
}

int main(int argc, char** argv) {
    pk_network* network = NULL;
    pk_stream* stream = NULL;
    pk_info info;
    if (argc != 7) return 4;
#ifdef _WIN32
    _setmode(_fileno(stdout), _O_BINARY); /* or a byte 10 becomes two */
#endif
    const int kind = atoi(argv[3]), streams = !strcmp(argv[6], "stream");
    const int64_t N = atoi(argv[4]), T = atoi(argv[5]);
    must(pk_network_open(argv[1], NULL, &network, &error));
    must(pk_network_info(network, &info, &error));
    must(pk_stream_open(network, N, 1, &stream, &error));
    for (int64_t k = 0; k < info.layers; k++) must(pk_watch(stream, k, 1, &error));
    const int is_bytes = kind == PK_SPIKES || kind == PK_BYTE_IMAGE || kind == PK_BYTE_FRAMES;
    const int held = kind == PK_IMAGE || kind == PK_BYTE_IMAGE;
    const int64_t channels = kind == PK_SPIKES ? (info.C + 7) / 8 : info.C;
    const size_t frame = (size_t)(N * channels * info.H * info.W), size = frame * (size_t)(held ? 1 : T);
    const size_t width = is_bytes ? 1 : sizeof(float);
    char* const data = memory(size * width);
    FILE* const file = fopen(argv[2], "rb");
    if (!file || fread(data, width, size, file) != size) return 5;
    fclose(file);
    if (streams)
        for (int64_t t = 0; t < T; t++) { /* frames of one sample, or of all, lie one after another */
            must(pk_advance(stream, kind, data + (held ? 0 : (size_t)t * frame * width), frame, 1, &error));
            put_layers(network, stream, info.layers, N, 1);
        }
    else {
        must(pk_run(stream, kind, data, size, T, &error));
        put_layers(network, stream, info.layers, N, T);
    }
    const size_t outputs = (size_t)(N * info.out_C * info.out_H * info.out_W);
    void* const answer = memory(outputs * sizeof(float));
    if (info.fires) must(pk_counts(stream, answer, outputs, &error)), put(answer, sizeof(int32_t), outputs);
    if (info.has_logits) must(pk_logits(stream, answer, outputs, &error)), put(answer, sizeof(float), outputs);
    free(data), free(answer);
    pk_stream_close(&stream), pk_network_close(&network);
    return fflush(stdout) != 0;
}
