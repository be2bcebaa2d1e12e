// What the C library's reader of JSON finds in texts: for each text of the input, which is a size of 8 bytes and so many bytes, a
// line. Each text lies in memory of its own, so that a sanitizer finds what is read outside of it.
#include <cstdio>
#include <cstring>
#include <vector>

#include "json.h"

using proxykernels::Json;

static void print_bytes(const std::string& text) {
    for (const char c : text) printf("%02x", (unsigned char)c);
}

static void print(Json value) {
    int64_t whole = 0;
    if (value.is_null()) printf("n");
    else if (value.is_bool()) printf(value.is_true() ? "t" : "f");
    else if (value.is_text()) printf("s"), print_bytes(value.text());
    else if (value.is_list()) {
        printf("[%lld", (long long)value.size());
        value.each_item([](Json item) { printf(" "), print(item); });
        printf("]");
    } else if (value.is_object()) {
        printf("{%lld", (long long)value.size());
        value.each([&](const std::string& key, Json item) {
            printf(" k"), print_bytes(key), printf(" "), print(item), printf(" ");
            if (key.find('\0') == std::string::npos) print(value[key.c_str()]);
        });
        printf("}");
    } else {
        const double number = value.number();
        uint64_t bits;
        memcpy(&bits, &number, 8);
        printf(value.is_number() ? "d%016llx" : "e%016llx", (unsigned long long)bits);
        if (value.is_whole(INT64_MIN, INT64_MAX, whole)) printf("i%lld", (long long)whole);
    }
}

int main() {
    uint64_t size;
    while (fread(&size, 8, 1, stdin) == 1) {
        const std::vector<char> text = [&] {
            std::vector<char> bytes(size);
            return fread(bytes.data(), 1, size, stdin) == size ? bytes : std::vector<char>();
        }();
        const Json value = proxykernels::read_json(text.data(), text.size());
        if (value.is_there()) print(value);
        else printf("refused");
        printf("\n");
    }
}
