// Follows an event camera: camera NET [MS], of events "t x y p" a line on standard input, in microseconds and in order. Every MS
// milliseconds (10) become a step; after each it prints the class that has fired most so far, or whose potential is highest.
#include <proxykernels.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <vector>

// A call, or an exception with its sentence.
template <class Call>
static void must(Call call) {
    pk_error error;
    if (call(&error)) throw std::runtime_error(error.sentence);
}

struct CloseNetwork {
    void operator()(pk_network* network) const { pk_network_close(&network); }
};
struct CloseStream {
    void operator()(pk_stream* stream) const { pk_stream_close(&stream); }
};

struct Events {
    std::vector<int64_t> t;
    std::vector<int32_t> x, y;
    std::vector<int8_t> p;
    void add(int64_t time, int32_t column, int32_t row, int polarity) {
        t.push_back(time), x.push_back(column), y.push_back(row), p.push_back((int8_t)polarity);
    }
};

template <class Value>
static long highest(const std::vector<Value>& values) {
    return std::max_element(values.begin(), values.end()) - values.begin();
}

// A step of all events since `begin`; returns the class.
static long step(pk_stream* stream, const pk_info& about, const Events& events, int64_t begin, int64_t length) {
    std::vector<uint8_t> packed((size_t)(about.H * about.W));
    must([&](pk_error* error) {
        return pk_pack_events(events.t.data(), events.x.data(), events.y.data(), events.p.data(), (int64_t)events.t.size(),
                              begin, length, 1, about.H, about.W, packed.data(), packed.size(), error);
    });
    must([&](pk_error* error) { return pk_advance(stream, PK_SPIKES, packed.data(), packed.size(), 1, error); });
    const auto classes = (size_t)(about.out_C * about.out_H * about.out_W);
    std::vector<int32_t> counts(about.fires ? classes : 0);
    std::vector<float> potentials(about.fires ? 0 : classes);
    must([&](pk_error* error) {
        if (about.fires) return pk_counts(stream, counts.data(), counts.size(), error);
        return pk_layer_values(stream, about.layers - 1, potentials.data(), potentials.size(), error);
    });
    return about.fires ? highest(counts) : highest(potentials);
}

int main(int argc, char** argv) try {
    const int64_t length = 1000 * (argc > 2 ? std::atoi(argv[2]) : 10);
    if (argc < 2 || argc > 3 || length <= 0) throw std::runtime_error("usage: camera NET [MS] < EVENTS");
    pk_network* opened = nullptr;
    must([&](pk_error* error) { return pk_network_open(argv[1], nullptr, &opened, error); });
    const std::unique_ptr<pk_network, CloseNetwork> network(opened);
    pk_stream* started = nullptr;
    must([&](pk_error* error) { return pk_stream_open(network.get(), 1, 0, &started, error); });
    const std::unique_ptr<pk_stream, CloseStream> stream(started);
    pk_info about;
    must([&](pk_error* error) { return pk_network_info(network.get(), &about, error); });

    int64_t begin = 0, t = 0;
    int32_t x = 0, y = 0;
    int p = 0;
    Events events;
    const auto flush = [&] {
        std::cout << begin << ": class " << step(stream.get(), about, events, begin, length) << "\n";
        events = Events(), begin += length;
    };
    while (std::cin >> t >> x >> y >> p) {
        while (t >= begin + length) flush();
        events.add(t, x, y, p);
    }
    flush();
    return 0;
} catch (const std::exception& error) {
    std::cerr << "camera: " << error.what() << "\n";
    return 1;
}
