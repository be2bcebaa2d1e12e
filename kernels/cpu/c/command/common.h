// What the command's parts share: its options, and calls of the library, whose errors are exceptions here.
#pragma once
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../include/proxykernels.h"

struct Problem : std::runtime_error {
    using runtime_error::runtime_error;
};

struct Options {
    std::string command, net, input, out;
    std::string target;  // "": the fastest
    long T = 0, threads = 0, runs = 200;
    long dt = 0;  // of a step of events; 0: T steps of equal length
    bool layers = false;
};

template <class Call>
static void must(Call call) {
    pk_error error;
    if (call(&error)) throw Problem(error.sentence);
}

struct CloseNetwork {
    void operator()(pk_network* network) const { pk_network_close(&network); }
};
struct CloseStream {
    void operator()(pk_stream* stream) const { pk_stream_close(&stream); }
};
using Network = std::unique_ptr<pk_network, CloseNetwork>;
using Stream = std::unique_ptr<pk_stream, CloseStream>;

Network open_network(const Options& options);
Stream open_stream(const Network& network, long N, long threads);

// An input, as pk_run takes it.
struct Input {
    pk_input kind = PK_IMAGE;
    std::vector<float> values;
    std::vector<uint8_t> bytes;  // instead of values
    int64_t N = 1, T = 0;        // T: steps of a sequence, otherwise 0

    bool is_bytes() const { return kind != PK_IMAGE && kind != PK_FRAMES; }
    const void* data() const { return is_bytes() ? (const void*)bytes.data() : values.data(); }
    size_t size() const { return is_bytes() ? bytes.size() : values.size(); }
};

Input read_input(const Options& options, const pk_info& about);  // by the ending of the file's name
void inform(const Options& options);
void run(const Options& options);
void bench(const Options& options);

// Arrays in files of numpy's.

struct Column {
    std::string type;                // such as "<i8"
    std::vector<std::string> names;  // such as "t", with a title two; none in an array that is not structured
};

struct Array {
    std::vector<Column> columns;  // of a structured array; of others one without a name
    std::vector<int64_t> shape;
    std::vector<uint8_t> bytes;
    bool columns_first = false;

    int64_t size() const;       // elements
    int64_t item_bytes() const;  // of an element
    // The values of a column, which is of integers or floats.
    std::vector<double> values(size_t column) const;
};

Array read_npy(const std::string& path);
void write_npy(const std::string& path, const char* type, const std::vector<int64_t>& shape, const void* data, size_t bytes);
