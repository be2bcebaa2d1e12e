// Inputs from files: arrays of numpy's, and events as such an array, structured, or as text.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "common.h"

namespace {

constexpr int64_t most_time = 1ll << 53, most_steps = 1 << 24;

struct Events {
    std::vector<int64_t> t;
    std::vector<int32_t> x, y;
    std::vector<int8_t> p;
    void add(double time, double column, double row, double polarity) {
        const auto fits = [](double value, double most) { return std::fabs(value) <= most && value == std::floor(value); };
        if (!fits(time, (double)most_time))
            throw Problem("times of events must be whole numbers of up to 2^53, in microseconds for example");
        if (!fits(column, 0x1p30) || !fits(row, 0x1p30) || !fits(polarity, 100))
            throw Problem("an event has an x, y or p that is no whole number, or too large");
        t.push_back((int64_t)time), x.push_back((int32_t)column), y.push_back((int32_t)row), p.push_back((int8_t)polarity);
    }
};

// Lines of four numbers, with commas or spaces between; the first may hold names, without digits.
Events read_text(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw Problem("the file " + path + " cannot be opened");
    Events events;
    std::string line;
    for (long number = 1; std::getline(file, line); number++) {
        double t = 0, x = 0, y = 0, p = 0;
        for (char& c : line) c = c == ',' || c == ';' ? ' ' : c;
        if (line.find_first_not_of(" \r\t") == std::string::npos) continue;
        if (sscanf(line.c_str(), "%lf %lf %lf %lf", &t, &x, &y, &p) == 4) events.add(t, x, y, p);
        else if (number > 1 || line.find_first_of("0123456789") != std::string::npos)
            throw Problem("line " + std::to_string(number) + " of " + path + " has no t, x, y and p");
    }
    return events;
}

Events from_array(const Array& array) {
    std::vector<double> fields[4];
    const char* const names[] = {"t", "x", "y", "p"};
    for (int k = 0; k < 4; k++) {
        for (size_t i = 0; i < array.columns.size(); i++)
            for (const std::string& name : array.columns[i].names)
                if (name == names[k]) fields[k] = array.values(i);
        if (fields[k].size() != (size_t)array.size()) throw Problem(std::string("the events have no field ") + names[k]);
    }
    Events events;
    for (size_t i = 0; i < fields[0].size(); i++) events.add(fields[0][i], fields[1][i], fields[2][i], fields[3][i]);
    return events;
}

// As pk.events: steps from the first event on; of T steps, or of steps of length dt.
Input pack(const Events& events, const Options& options, const pk_info& about) {
    if (about.C != 2) throw Problem("events need a network of 2 channels, OFF and ON");
    if (events.t.empty()) throw Problem("the file has no events");
    int64_t first = events.t[0], last = events.t[0];
    for (const int64_t t : events.t) first = t < first ? t : first, last = t > last ? t : last;
    const int64_t dt = options.dt;
    if (dt > most_time) throw Problem("--dt must be at most 2^53");
    if (!dt && options.T < 1) throw Problem("events need --dt, the length of a step, or -T, the number of steps");
    Input input;
    input.kind = PK_SPIKES;
    input.T = dt ? (last - first) / dt + 1 : options.T;
    if (dt && options.T) input.T = options.T, first = 0;
    if (input.T > most_steps) throw Problem("the events take more than 2^24 steps: take a longer --dt");
    if (dt > 2 * most_time / input.T) throw Problem("the steps take more than 2^54 units of t: take a shorter --dt");
    const int64_t span = dt ? input.T * dt : last - first + 1;
    input.bytes.resize((size_t)(input.T * about.H * about.W));
    must([&](pk_error* error) {
        return pk_pack_events(events.t.data(), events.x.data(), events.y.data(), events.p.data(), (int64_t)events.t.size(),
                              first, span, input.T, about.H, about.W, input.bytes.data(), input.bytes.size(), error);
    });
    return input;
}

// Images [N, ...] or frames [T, N, ...]: bool are spikes, bytes values of 255ths, all others values.
Input from_frames(const Array& array, const pk_info& about) {
    const int64_t rank = (int64_t)array.shape.size();
    const bool sequence = rank == about.dims + 2, spikes = array.columns[0].type == "|b1",
               is_bytes = array.columns[0].type == "|u1";
    const int64_t taken[] = {about.C, about.dims < 3 ? about.W : about.H, about.W};
    if ((rank != about.dims + 1 && !sequence) || !std::equal(taken, taken + about.dims, array.shape.end() - about.dims))
        throw Problem("the array must have the network's shape behind [N] or [T, N]");
    if (array.columns_first) throw Problem("the array is in Fortran's order: save it by numpy.ascontiguousarray");
    Input input;
    input.N = array.shape[sequence], input.T = sequence ? array.shape[0] : 0;
    if (!array.size()) throw Problem("the array has no sample, or no step");
    if (spikes && !sequence) throw Problem("spikes come as a sequence [T, N, ...] of bool");
    if (spikes) {
        input.kind = PK_SPIKES;
        input.bytes.resize((size_t)(input.N * input.T * about.H * about.W * ((about.C + 7) / 8)));
        must([&](pk_error* error) {
            return pk_pack_spikes(array.bytes.data(), input.T, input.N, about.C, about.H, about.W, input.bytes.data(),
                                  input.bytes.size(), error);
        });
    } else if (is_bytes) {
        input.kind = sequence ? PK_BYTE_FRAMES : PK_BYTE_IMAGE;
        input.bytes = array.bytes;
    } else {
        input.kind = sequence ? PK_FRAMES : PK_IMAGE;
        for (const double value : array.values(0)) input.values.push_back((float)value);
    }
    return input;
}

}  // namespace

Input read_input(const Options& options, const pk_info& about) {
    const std::string& path = options.input;
    const std::string ending = path.size() > 4 ? path.substr(path.size() - 4) : "";
    if (ending == ".csv" || ending == ".txt") return pack(read_text(path), options, about);
    const Array array = read_npy(path);
    if (!array.columns[0].names.empty()) return pack(from_array(array), options, about);
    Input input = from_frames(array, about);
    if (input.T && options.T && input.T != options.T)
        throw Problem("the input is a sequence of " + std::to_string(input.T) + " steps, and -T is " +
                      std::to_string(options.T));
    if (!input.T && options.T < 1) throw Problem("images need -T, the number of steps");
    return input;
}
