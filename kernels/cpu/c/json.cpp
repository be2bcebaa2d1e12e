#include "json.h"

#include <cstring>

#include "decimal.h"

namespace proxykernels {

// Reads from a place on. Each function tells whether what it read is sound, and leaves the place behind it.
class JsonScanner {
public:
    JsonScanner(const char* at, const char* end) : at(at), end(end) {}

    void space() {
        while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')) at++;
    }
    bool takes(char c) { return at < end && *at == c && (at++, true); }
    bool value(int nested = 0);
    bool text(std::string* to = nullptr);  // and what it says
    bool number();

    const char *at, *end;

private:
    bool word(const char* wanted) {
        const size_t length = strlen(wanted);
        return (size_t)(end - at) >= length && !memcmp(at, wanted, length) && (at += length, true);
    }
    bool digits() {
        const char* const first = at;
        while (at < end && *at >= '0' && *at <= '9') at++;
        return at > first;
    }
    bool items(bool keys, char last, int nested);
    bool beyond_ascii(std::string* to);
    bool escape(std::string* to);
    bool unit(uint32_t& to);
};

bool JsonScanner::value(int nested) {
    if (at == end) return false;
    switch (*at) {
        case '{': return items(true, '}', nested + 1);
        case '[': return items(false, ']', nested + 1);
        case '"': return text();
        case 't': return word("true");
        case 'f': return word("false");
        case 'n': return word("null");
        default: return number();
    }
}

bool JsonScanner::items(bool keys, char last, int nested) {
    if (nested > Json::most_nested) return false;
    at++;
    space();
    if (takes(last)) return true;
    do {
        space();
        if (keys) {
            if (!text()) return false;
            space();
            if (!takes(':')) return false;
            space();
        }
        if (!value(nested)) return false;
        space();
    } while (takes(','));
    return takes(last);
}

bool JsonScanner::number() {
    takes('-');
    if (!takes('0') && !digits()) return false;  // no digit follows a leading 0
    if (takes('.') && !digits()) return false;
    if (!takes('e') && !takes('E')) return true;
    if (!takes('+')) takes('-');
    return digits();
}

bool JsonScanner::text(std::string* to) {
    if (!takes('"')) return false;
    while (true) {
        const char* const first = at;
        while (at < end && (signed char)*at >= ' ' && *at != '"' && *at != '\\') at++;
        if (to) to->append(first, (size_t)(at - first));
        if (takes('"')) return true;
        if (takes('\\') ? !escape(to) : !beyond_ascii(to)) return false;
    }
}

static void append_utf8(std::string& to, uint32_t code) {
    const auto rest = [&](int shift) { to += (char)(0x80 | (code >> shift & 0x3f)); };
    if (code < 0x80) to += (char)code;
    else if (code < 0x800) to += (char)(0xc0 | code >> 6), rest(0);
    else if (code < 0x10000) to += (char)(0xe0 | code >> 12), rest(6), rest(0);
    else to += (char)(0xf0 | code >> 18), rest(12), rest(6), rest(0);
}

// A character of several bytes as UTF-8 writes it: in as few as it can, and no surrogate.
bool JsonScanner::beyond_ascii(std::string* to) {
    const char* const first = at;
    const unsigned lead = at < end ? (unsigned char)*at++ : 0;
    const int rest = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    if (lead < 0xc2 || lead > 0xf4 || end - at < rest) return false;
    uint32_t code = lead & (0x3fu >> rest);
    for (int k = 0; k < rest; k++) {
        const unsigned next = (unsigned char)*at++;
        if (next >> 6 != 2) return false;
        code = code << 6 | (next & 0x3f);
    }
    constexpr uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    if (code < least[rest] || code > 0x10ffff || code >> 11 == 0x1b) return false;
    if (to) to->append(first, (size_t)(at - first));
    return true;
}

bool JsonScanner::escape(std::string* to) {
    constexpr char names[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    if (!takes('u')) {
        const char* const name = at < end && *at ? strchr(names, *at) : nullptr;
        if (!name) return false;
        if (to) *to += meant[name - names];
        at++;
        return true;
    }
    uint32_t code = 0, low = 0;
    if (!unit(code) || code >> 10 == 0x37) return false;  // the second half of a surrogate pair
    if (code >> 10 == 0x36) {
        if (!takes('\\') || !takes('u') || !unit(low) || low >> 10 != 0x37) return false;
        code = 0x10000 + ((code & 0x3ff) << 10) + (low & 0x3ff);
    }
    if (to) append_utf8(*to, code);
    return true;
}

// Four hexadecimal digits.
bool JsonScanner::unit(uint32_t& to) {
    if (end - at < 4) return false;
    for (const char* const last = at + 4; at < last; at++) {
        const char c = *at, letter = (char)(c | 0x20);
        const bool is_digit = c >= '0' && c <= '9';
        if (!is_digit && (letter < 'a' || letter > 'f')) return false;
        to = to << 4 | (uint32_t)(is_digit ? c - '0' : letter - 'a' + 10);
    }
    return true;
}

Json read_json(const char* text, size_t size) {
    JsonScanner scanner(text, text + size);
    scanner.space();
    const Json found(scanner.at, scanner.end);
    if (!scanner.value()) return {};
    scanner.space();
    return scanner.at == scanner.end ? found : Json();
}

Json Json::first() const {
    if (!is_list() && !is_object()) return {};
    JsonScanner scanner(at + 1, end);
    scanner.space();
    return scanner.at < end && *scanner.at != ']' && *scanner.at != '}' ? Json(scanner.at, end) : Json();
}

Json Json::item_of_key() const {
    JsonScanner scanner(at, end);
    scanner.text(), scanner.space(), scanner.takes(':'), scanner.space();
    return {scanner.at, end};
}

Json Json::next() const {
    JsonScanner scanner(at, end);
    scanner.value(), scanner.space();
    if (!scanner.takes(',')) return {};
    scanner.space();
    return {scanner.at, end};
}

std::string Json::text() const {
    std::string said;
    if (is_text()) JsonScanner(at, end).text(&said);
    return said;
}

bool Json::is_whole(int64_t least, int64_t most, int64_t& to) const {
    if (!has_digits()) return false;
    JsonScanner scanner(at, end);
    scanner.number();
    const bool negative = *at == '-';
    int64_t value = 0;  // below zero, where one number more has its place
    for (const char* digit = at + negative; digit < scanner.at; digit++) {
        if (*digit < '0' || *digit > '9') return false;
        if (__builtin_mul_overflow(value, (int64_t)10, &value)) return false;
        if (__builtin_sub_overflow(value, (int64_t)(*digit - '0'), &value)) return false;
    }
    if (!negative && __builtin_sub_overflow((int64_t)0, value, &value)) return false;
    to = value;
    return least <= to && to < most;
}

double Json::number() const {
    int64_t whole = 0;
    if (!has_digits()) return 0;
    if (is_whole(INT64_MIN, INT64_MAX, whole)) return (double)whole;  // and no -0, which Python reads as 0
    JsonScanner scanner(at, end);
    scanner.number();
    return nearest_double(at, scanner.at);
}

}  // namespace proxykernels
