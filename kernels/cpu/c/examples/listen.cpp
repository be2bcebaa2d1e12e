// Listens to a microphone: listen NET [RATE], of sound on standard input, 16-bit samples of one channel, RATE a second (8000).
// Prints each word's class when it has ended.
//
//     arecord -t raw -f S16_LE -r 8000 | listen digits.pk
#include "hear.hpp"

#include <cstdio>
#include <cstdlib>

static int failed(const char* sentence) {
    std::fprintf(stderr, "listen: %s\n", sentence);
    return 1;
}

int main(int argc, char** argv) {
    const int rate = argc > 2 ? std::atoi(argv[2]) : 8000;
    if (argc < 2 || argc > 3 || rate < 8000 || rate % 100) return failed("usage: listen NET [RATE] < SOUND");
    pk_error error;
    pk_network* network = nullptr;
    if (pk_network_open(argv[1], nullptr, &network, &error)) return failed(error.sentence);
    Listener listener(rate);
    pk_status status = listener.open(network, &error);
    pk_network_close(&network); // the listener's stream keeps it
    std::vector<int16_t> read((size_t)listener.cochlea.samples);
    std::vector<float> sound(read.size());
    int word = 0;
    for (long step = 0; !status && std::fread(read.data(), 2, read.size(), stdin) == read.size(); ++step) {
        std::transform(read.begin(), read.end(), sound.begin(), [](int16_t value) { return (float)value / 32768; });
        status = listener.step(sound.data(), &word, &error);
        if (word != Listener::nothing) std::printf("%.2f s: class %d\n", (double)(step + 1) / 100, word), std::fflush(stdout);
    }
    return status ? failed(error.sentence) : 0;
}
