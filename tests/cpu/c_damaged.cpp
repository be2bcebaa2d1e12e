// Damaged files: damaged NET COUNT SEED. Changes the file in memory, at random, again and again, reads what has become of it, and
// runs what can be read. Each refusal has a sentence. For a build with sanitizers, which find what is read or written elsewhere.
#include <proxykernels.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

// One of: a bit, some bytes, a part left out or repeated, an end cut off, or a digit of the description.
static void damage(std::vector<char>& bytes, std::mt19937& random) {
    const auto below = [&](size_t n) { return n ? random() % n : 0; };
    const size_t at = below(2) ? below(bytes.size()) : below(bytes.size() < 4000 ? bytes.size() : 4000);
    switch (below(6)) {
        case 0: bytes[at] = (char)(bytes[at] ^ 1 << below(8)); break;
        case 1:
            for (size_t i = at; i < bytes.size() && i < at + 1 + below(16); i++) bytes[i] = (char)random();
            break;
        case 2: bytes.erase(bytes.begin() + (long)at, bytes.begin() + (long)(at + below(bytes.size() - at))); break;
        case 3: bytes.insert(bytes.begin() + (long)at, bytes.begin(), bytes.begin() + (long)below(bytes.size())); break;
        case 4: bytes.resize(at); break;
        default:
            for (size_t i = at; i < bytes.size(); i++)
                if (bytes[i] >= '0' && bytes[i] <= '9') {
                    bytes[i] = (char)('0' + below(10));
                    break;
                }
    }
}

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    std::ifstream file(argv[1], std::ios::binary);
    const std::vector<char> whole((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    std::mt19937 random((unsigned)atoi(argv[3]));
    long refused = 0, read = 0;
    for (long i = 0; i < atol(argv[2]); i++) {
        std::vector<char> bytes = whole;
        for (unsigned n = 1 + random() % 3; n && !bytes.empty(); n--) damage(bytes, random);
        bytes.push_back(0);  // memory of its own, of no bytes too
        pk_error error;
        pk_network* network = nullptr;
        const pk_status status = pk_network_read(bytes.data(), bytes.size() - 1, nullptr, &network, &error);
        if (status != PK_OK) {
            refused++;
            if (network || status != error.status || strlen(error.sentence) < 20) return printf("no sentence\n"), 1;
            continue;
        }
        read++;
        pk_stream* stream = nullptr;
        pk_info info;
        std::vector<float> image;
        if (pk_network_info(network, &info, &error) || pk_stream_open(network, 1, 1, &stream, &error)) return 1;
        image.resize((size_t)(info.C * info.H * info.W), 0.5f);
        pk_run(stream, PK_IMAGE, image.data(), image.size(), 2, &error);
        pk_stream_close(&stream), pk_network_close(&network);
    }
    printf("%ld refused, %ld read\n", refused, read);
    return 0;
}
