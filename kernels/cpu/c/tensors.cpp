#include "tensors.h"

#include <algorithm>

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
    else return false;
    const int64_t bytes = to.type == Type::Float ? 4 : 8;
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

}  // namespace proxykernels
