// Files: arrays of numpy's, and inputs of a network, which are such arrays, or events as a structured array or as text.
#include "common.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sys/stat.h>

struct File {
    FILE* file;
    File(const std::string& path, const char* mode) : file(fopen(path.c_str(), mode)) {
        if (!file) throw Problem("the file " + path + " cannot be opened: " + strerror(errno));
    }
    ~File() {
        if (file) fclose(file);
    }
    File(const File&) = delete;
};

constexpr int64_t most_elements = 1ll << 40, most_item = 1 << 16, piece = 1 << 24;

static int64_t type_bytes(const std::string& type) {
    if (type.compare(0, 2, "|V") == 0) {  // padding between fields
        const long bytes = strtol(type.c_str() + 2, nullptr, 10);
        if (bytes > 0 && bytes < most_item) return bytes;
    }
    const bool known = type.size() == 3 && strchr("<|", type[0]) && strchr("iufb", type[1]) && strchr("1248", type[2]);
    if (!known || (type[1] == 'f' && type[2] < '4'))
        throw Problem("arrays of the type " + type + " are not read: take float32");
    return type[2] - '0';
}

int64_t Array::size() const {
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    return n;
}

int64_t Array::item_bytes() const {
    int64_t sum = 0;
    for (const Column& column : columns)
        if ((sum += type_bytes(column.type)) > most_item) throw Problem("the file's elements are too large");
    return sum;
}

template <class Number>
static double read(const uint8_t* from) {
    Number number;
    memcpy(&number, from, sizeof number);
    return (double)number;
}

static double read(const std::string& type, const uint8_t* from) {
    const int bytes = type[2] - '0';
    if (type[1] == 'f') return bytes == 4 ? read<float>(from) : read<double>(from);
    if (type[1] == 'i')
        return bytes == 1   ? read<int8_t>(from)
               : bytes == 2 ? read<int16_t>(from)
               : bytes == 4 ? read<int32_t>(from)
                            : read<int64_t>(from);
    return bytes == 1   ? read<uint8_t>(from)
           : bytes == 2 ? read<uint16_t>(from)
           : bytes == 4 ? read<uint32_t>(from)
                        : read<uint64_t>(from);
}

std::vector<double> Array::values(size_t column) const {
    int64_t offset = 0, step = item_bytes();
    for (size_t k = 0; k < column; k++) offset += type_bytes(columns[k].type);
    std::vector<double> found((size_t)size());
    for (size_t i = 0; i < found.size(); i++) found[i] = read(columns[column].type, bytes.data() + (int64_t)i * step + offset);
    return found;
}

// What stands behind a key of the header, which is a dictionary of Python's.
static std::string behind(const std::string& header, const char* key) {
    const size_t at = header.find("'" + std::string(key) + "':");
    if (at == std::string::npos) throw Problem("the file's header has no " + std::string(key));
    return header.substr(at + strlen(key) + 3);
}

// The texts in quotes, up to the end of a bracket.
static std::vector<std::string> quoted(const std::string& text) {
    std::vector<std::string> found;
    for (size_t at = text.find_first_of("']"); at != std::string::npos && text[at] == '\''; at = text.find_first_of("']", at)) {
        const size_t end = text.find('\'', at + 1);
        if (end == std::string::npos) break;
        found.push_back(text.substr(at + 1, end - at - 1));
        at = end + 1;
    }
    return found;
}

// Reads the fields of a structured array: [('t', '<i8'), (('p', 'on'), '|b1'), ('', '|V2')]. A name may have a title before it.
static void read_columns(const std::string& fields, Array& to) {
    for (size_t at = fields.find_first_of("(]"); at != std::string::npos && fields[at] == '(';) {
        const bool titled = fields.compare(at, 2, "((") == 0;
        size_t end = fields.find(')', at);
        if (titled && end != std::string::npos) end = fields.find(')', end + 1);
        const std::string field = fields.substr(at, end - at);
        const std::vector<std::string> texts = quoted(field);
        if (texts.size() != (titled ? 3 : 2) || field.find('(', titled ? 2 : 1) != std::string::npos)
            throw Problem("the file's header has a field that is not read, " + field + "): take one number a field");
        to.columns.push_back({texts.back(), {texts.begin(), texts.end() - 1}});
        at = fields.find_first_of("(]", end);
    }
}

static void read_header(const std::string& header, Array& to) {
    const std::string type = behind(header, "descr"), shape = behind(header, "shape");
    const size_t first = type.find_first_not_of(' ');
    if (first != std::string::npos && type[first] == '[') read_columns(type, to);
    else if (!quoted(type).empty()) to.columns.push_back({quoted(type)[0], {}});
    to.columns_first = behind(header, "fortran_order").find("True") < 3;
    const size_t open = shape.find('('), close = shape.find(')');
    if (to.columns.empty() || open == std::string::npos || close == std::string::npos)
        throw Problem("the file's header is damaged");
    for (size_t at = open + 1; at < close;) {
        char* end = nullptr;
        const long long size = strtoll(shape.c_str() + at, &end, 10);
        const size_t next = (size_t)(end - shape.c_str());
        if (next == at) break;
        if (size < 0 || (size && to.size() > most_elements / size)) throw Problem("the file's array is too large");
        to.shape.push_back(size);
        at = shape.find_first_not_of(", ", next);
    }
}

Array read_npy(const std::string& path) {
    const File opened(path, "rb");
    uint8_t start[12];
    constexpr size_t before_length = 8;
    if (fread(start, 1, 10, opened.file) != 10 || memcmp(start, "\x93NUMPY", 6)) throw Problem(path + " is no .npy file");
    size_t length = start[before_length] | start[before_length + 1] << 8;
    if (start[6] > 1) {
        if (fread(start + 10, 1, 2, opened.file) != 2) throw Problem(path + " is cut short");
        length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    }
    if (length > 1 << 20) throw Problem(path + " is damaged: its header is too long");
    std::string header(length, ' ');
    if (fread(header.data(), 1, length, opened.file) != length) throw Problem(path + " is cut short");
    Array array;
    read_header(header, array);
    const int64_t all = array.size() * array.item_bytes();
    for (int64_t done = 0; done < all;) {  // in pieces: a damaged header may tell of more than there is memory for
        const int64_t next = std::min(piece, all - done);
        array.bytes.resize((size_t)(done + next));
        if (fread(array.bytes.data() + done, 1, (size_t)next, opened.file) != (size_t)next)
            throw Problem(path + " is cut short");
        done += next;
    }
    return array;
}

void write_npy(const std::string& path, const char* type, const std::vector<int64_t>& shape, const void* data, size_t bytes) {
    std::string header = "{'descr': '" + std::string(type) + "', 'fortran_order': False, 'shape': (";
    for (const int64_t size : shape) header += std::to_string(size) + ",";
    header += "), }";
    header.resize((10 + header.size()) / 64 * 64 + 64 - 10, ' ');
    header.back() = '\n';
    const std::string start = std::string("\x93NUMPY\x01\x00", 8) + (char)(header.size() & 255) + (char)(header.size() >> 8);
    File opened(path, "wb");
    FILE* const file = opened.file;
    const bool written = fwrite(start.data(), 1, start.size(), file) == start.size() &&
                         fwrite(header.data(), 1, header.size(), file) == header.size() &&
                         fwrite(data, 1, bytes, file) == bytes;
    opened.file = nullptr;
    if ((fclose(file) != 0) | !written) {
        const Problem problem("the file " + path + " cannot be written: " + strerror(errno));
        struct stat about;
        if (!stat(path.c_str(), &about) && S_ISREG(about.st_mode)) remove(path.c_str());  // no half-written file; no device
        throw problem;
    }
}

// Inputs.

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
    if (!input.T && options.T < 1 && options.command != "bench") throw Problem("images need -T, the number of steps");
    return input;
}
