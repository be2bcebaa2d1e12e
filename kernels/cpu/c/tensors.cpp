#include "tensors.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "json.h"

namespace proxykernels {

static bool is_damaged(Failure& failure) {
    return failure.set(PK_BAD_FILE, "the file is damaged, or not an engine's: it is no whole safetensors container");
}

// A tensor of a header, whose data are `size` bytes in all; [first, last): where its own are.
static bool read_tensor(Json about, Tensor& to, size_t size, size_t& first, size_t& last) {
    const Json type = about["dtype"], shape = about["shape"], offsets = about["data_offsets"];
    if (!type.is_text() || !shape.is_list() || !offsets.is_list() || offsets.size() != 2) return false;
    if (type.text() == "F32") to.type = Type::Float;
    else if (type.text() == "I64") to.type = Type::Whole;
    else if (type.text() == "I8") to.type = Type::Byte;
    else return false;
    const int64_t bytes = size_of(to.type);
    bool sound = true;
    to.size = 1;
    shape.each_item([&](Json dim) {
        int64_t n = 0;
        sound = sound && dim.is_whole(0, INT64_MAX, n) && !__builtin_mul_overflow(to.size, n, &to.size);
        to.shape.push_back(n);
    });
    int64_t ends[2] = {0, 0}, *end = ends, length = 0;
    offsets.each_item([&](Json at) { sound = at.is_whole(0, INT64_MAX, *end++) && sound; });
    if (!sound || __builtin_mul_overflow(to.size, bytes, &length)) return false;
    if (ends[0] > ends[1] || (uint64_t)ends[1] > size || ends[1] - ends[0] != length) return false;
    first = (size_t)ends[0], last = (size_t)ends[1];
    return first % (size_t)bytes == 0;
}

static bool read_metadata(Json about, Container& to) {
    bool sound = about.is_object();
    about.each([&](const std::string&, Json text) { sound = sound && text.is_text(); });
    if (!sound) return false;
    const auto text = [&](const char* key) { return about[key].text(); };  // of a key that is not there it is empty
    to.format = text("format"), to.version = text("version"), to.plan = text("plan"), to.checksum = text("checksum");
    return true;
}

bool read_container(const uint8_t* bytes, size_t size, Container& to, Failure& failure) {
    constexpr size_t prefix = 8, most_header = 100000000;  // safetensors' own limit
    uint64_t header = 0;
    for (size_t i = 0; i < prefix && i < size; i++) header |= (uint64_t)bytes[i] << (8 * i);
    if (size < prefix || header > most_header || header > size - prefix) return is_damaged(failure);
    // Tensors are read where they lie, on boundaries of their numbers.
    if (header % 8) return is_damaged(failure);
    const Json described = read_json((const char*)bytes + prefix, (size_t)header);
    if (!described.is_object()) return is_damaged(failure);
    const uint8_t* const data = bytes + prefix + header;
    const size_t data_size = size - prefix - (size_t)header;
    bool sound = true;
    std::vector<std::pair<size_t, size_t>> spans;
    described.each([&](const std::string& name, Json about) {
        if (!sound) return;
        if (name == "__metadata__") {
            sound = read_metadata(about, to);
            return;
        }
        Tensor tensor{};
        size_t first = 0, last = 0;
        sound = about.is_object() && read_tensor(about, tensor, data_size, first, last);
        tensor.name = name, tensor.bytes = data + first;
        spans.push_back({first, last});
        to.tensors.push_back(std::move(tensor));
    });
    if (!sound) return is_damaged(failure);
    std::sort(spans.begin(), spans.end());  // they fill the file, and none lies on another
    size_t end = 0;
    for (const auto& [first, last] : spans) {
        if (first != end) return is_damaged(failure);
        end = last;
    }
    if (end != data_size) return is_damaged(failure);
    const auto by_name = [](const Tensor& a, const Tensor& b) { return a.name < b.name; };
    std::sort(to.tensors.begin(), to.tensors.end(), by_name);
    const auto same = [](const Tensor& a, const Tensor& b) { return a.name == b.name; };
    if (std::adjacent_find(to.tensors.begin(), to.tensors.end(), same) != to.tensors.end()) return is_damaged(failure);
    return true;
}

const Tensor* Container::find(const std::string& name) const {
    const auto found = std::lower_bound(tensors.begin(), tensors.end(), name,
                                        [](const Tensor& tensor, const std::string& wanted) { return tensor.name < wanted; });
    return found != tensors.end() && found->name == name ? &*found : nullptr;
}

bool take_units(Container& container, Failure& failure) {
    std::vector<std::string> units;
    for (Tensor& tensor : container.tensors) {
        if (tensor.type != Type::Byte) continue;
        const Tensor* const unit = container.find(tensor.name + ".unit");
        if (tensor.shape.empty() || !tensor.size || !unit || unit->type != Type::Float || !unit->has_shape({tensor.shape[0]}))
            return failure.set(PK_BAD_FILE, "the file cannot be loaded: a tensor in bytes has no values, no units, or others");
        const int64_t rows = tensor.shape[0], row = tensor.size / rows;
        const int8_t* const codes = (const int8_t*)tensor.bytes;
        std::vector<float> values((size_t)tensor.size);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = r * row; i < (r + 1) * row; i++) values[(size_t)i] = (float)codes[i] * unit->floats()[r];
        units.push_back(unit->name);
        container.made.push_back(std::move(values));
        tensor.type = Type::Float, tensor.bytes = (const uint8_t*)container.made.back().data();
    }
    const auto is_unit = [&](const Tensor& tensor) {
        return std::find(units.begin(), units.end(), tensor.name) != units.end();
    };
    container.tensors.erase(std::remove_if(container.tensors.begin(), container.tensors.end(), is_unit),
                            container.tensors.end());
    return true;
}

// BLAKE2b without a key, RFC 7693, of which the first 8 bytes are taken: hashlib.blake2b(digest_size=8).
class Blake2b {
public:
    Blake2b() {
        memcpy(h, start, sizeof h);
        h[0] ^= 0x01010000 ^ digest_bytes;
    }
    void update(const void* bytes, size_t size) {
        const uint8_t* from = (const uint8_t*)bytes;
        while (size) {
            if (used == sizeof block) compress(false);
            const size_t some = size < sizeof block - used ? size : sizeof block - used;
            memcpy(block + used, from, some);
            used += some, from += some, size -= some;
        }
    }
    void update(const std::string& text) { update(text.data(), text.size()); }
    std::string hexadecimal() {
        memset(block + used, 0, sizeof block - used);
        compress(true);
        char digits[2 * digest_bytes + 1];
        for (size_t i = 0; i < digest_bytes; i++) snprintf(digits + 2 * i, 3, "%02x", (unsigned)(h[0] >> (8 * i) & 255));
        return digits;
    }

private:
    static constexpr size_t digest_bytes = 8;
    static constexpr uint64_t start[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                                          0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
    static constexpr uint8_t order[10][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

    static uint64_t turned(uint64_t x, int bits) { return x >> bits | x << (64 - bits); }
    static void mix(uint64_t& a, uint64_t& b, uint64_t& c, uint64_t& d, uint64_t x, uint64_t y) {
        a += b + x, d = turned(d ^ a, 32), c += d, b = turned(b ^ c, 24);
        a += b + y, d = turned(d ^ a, 16), c += d, b = turned(b ^ c, 63);
    }
    void compress(bool last) {
        length += used, used = 0;
        uint64_t m[16], v[16];
        for (int i = 0; i < 16; i++) {
            m[i] = 0;
            for (int byte = 0; byte < 8; byte++) m[i] |= (uint64_t)block[8 * i + byte] << (8 * byte);
        }
        memcpy(v, h, sizeof h), memcpy(v + 8, start, sizeof start);
        v[12] ^= length;
        if (last) v[14] = ~v[14];
        for (int round = 0; round < 12; round++) {
            const uint8_t* const s = order[round % 10];
            for (int i = 0; i < 4; i++) mix(v[i], v[4 + i], v[8 + i], v[12 + i], m[s[2 * i]], m[s[2 * i + 1]]);
            for (int i = 0; i < 4; i++)
                mix(v[i], v[4 + (i + 1) % 4], v[8 + (i + 2) % 4], v[12 + (i + 3) % 4], m[s[8 + 2 * i]], m[s[9 + 2 * i]]);
        }
        for (int i = 0; i < 8; i++) h[i] ^= v[i] ^ v[8 + i];
    }

    uint64_t h[8], length = 0;
    uint8_t block[128];
    size_t used = 0;
};

std::string checksum(const Container& container, Fingerprint fingerprint) {
    Blake2b sum;
    sum.update(container.plan);
    for (const Tensor& tensor : container.tensors) {
        const char* const type = tensor.type == Type::Float ? "float32" : tensor.type == Type::Whole ? "int64" : "int8";
        std::string line = tensor.name + " torch." + type + " [";
        for (size_t i = 0; i < tensor.shape.size(); i++) line += (i ? ", " : "") + std::to_string(tensor.shape[i]);
        char digits[24];
        snprintf(digits, sizeof digits, "] %016" PRIx64 "\n", fingerprint(tensor.bytes, tensor.size_in_bytes()));
        sum.update(line + digits);
    }
    return sum.hexadecimal();
}

}  // namespace proxykernels
