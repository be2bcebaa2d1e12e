/* Classifies images: classify NET IMAGES T, of images as raw float32 [N, C, H, W]. Prints for each image the class, and the
 * spikes of all classes. */
#include <proxykernels.h>

#include <stdio.h>
#include <stdlib.h>

static int fail(const char* what) {
    fprintf(stderr, "classify: %s\n", what);
    return 1;
}

/* Runs image after image; 0 if all went well. */
static int classify(pk_stream* stream, const pk_info* about, FILE* images, long T, pk_error* error) {
    const size_t size = (size_t)(about->C * about->H * about->W),
                 classes = (size_t)(about->out_C * about->out_H * about->out_W);
    float* image = malloc(size * sizeof *image);
    int32_t* counts = malloc(classes * sizeof *counts);
    int failed = !image || !counts ? fail("no memory") : 0;
    while (!failed && fread(image, sizeof *image, size, images) == size) {
        if (pk_run(stream, PK_IMAGE, image, size, T, error) || pk_counts(stream, counts, classes, error)) {
            failed = fail(error->sentence);
            break;
        }
        size_t best = 0;
        for (size_t c = 1; c < classes; c++)
            if (counts[c] > counts[best]) best = c;
        printf("%zu:", best);
        for (size_t c = 0; c < classes; c++) printf(" %d", (int)counts[c]);
        printf("\n");
    }
    free(image);
    free(counts);
    return failed;
}

int main(int argc, char** argv) {
    pk_error error;
    pk_network* network = NULL;
    pk_stream* stream = NULL;
    pk_info about;
    FILE* images;
    int failed;
    if (argc != 4) return fail("usage: classify NET IMAGES T");
    if (!(images = fopen(argv[2], "rb"))) return fail("the images cannot be read");
    if (pk_network_open(argv[1], NULL, &network, &error) || pk_network_info(network, &about, &error) ||
        pk_stream_open(network, 1, 0, &stream, &error))
        failed = fail(error.sentence);
    else failed = classify(stream, &about, images, strtol(argv[3], NULL, 10), &error);
    pk_stream_close(&stream);
    pk_network_close(&network);
    fclose(images);
    return failed;
}
