#include "json.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace proxykernels {

namespace {

// An integer of any size, in digits of 32 bits; the lowest comes first, and the highest is not 0.
class Natural {
public:
    bool is_zero() const { return digits.empty(); }
    void multiply_add(uint32_t factor, uint32_t sum) {
        uint64_t carry = sum;
        for (uint32_t& digit : digits) {
            carry += (uint64_t)digit * factor;
            digit = (uint32_t)carry, carry >>= 32;
        }
        if (carry) digits.push_back((uint32_t)carry);
    }
    int compared_with(const Natural& other) const {  // -1, 0 or 1
        const size_t size = digits.size(), size_of_other = other.digits.size();
        if (size != size_of_other) return size < size_of_other ? -1 : 1;
        for (size_t k = size; k-- > 0;)
            if (digits[k] != other.digits[k]) return digits[k] < other.digits[k] ? -1 : 1;
        return 0;
    }
    void subtract(const Natural& other) {  // which is not larger
        int64_t carry = 0;
        for (size_t k = 0; k < digits.size(); k++) {
            carry += (int64_t)digits[k] - (k < other.digits.size() ? other.digits[k] : 0);
            digits[k] = (uint32_t)carry, carry >>= 32;
        }
        while (!digits.empty() && !digits.back()) digits.pop_back();
    }

private:
    std::vector<uint32_t> digits;
};

}  // namespace

// ratio * 2^exponent, where 1 <= ratio = a / b < 2, rounded to 53 bits, or fewer next to zero.
static double rounded(Natural& a, const Natural& b, int exponent) {
    constexpr int precision = 53, least = -1022;
    const int bits = exponent >= least ? precision : precision - (least - exponent);
    if (bits < 0) return 0;  // less than half of the smallest double
    int64_t quotient = 0;
    for (int k = 0; k < bits; k++) {
        quotient *= 2;
        if (a.compared_with(b) >= 0) a.subtract(b), quotient++;
        a.multiply_add(2, 0);
    }
    const int half = a.compared_with(b);  // what is left, against half of the last bit
    if (half > 0 || (half == 0 && quotient % 2)) quotient++;
    return std::ldexp((double)quotient, exponent - bits + 1);
}

// The double nearest to a decimal number, exactly, in any locale and with any C library. [at, end) has the number as JSON writes it,
// such as -12.5e-3. Of two doubles that are as near, the even one; infinite, if it is too large. The time grows with the square of
// the exponent: for a few parameters, not for tensors.
static double nearest_double(const char* at, const char* end) {
    constexpr int most_digits = 800;  // no value half-way between two doubles has as many
    constexpr int64_t huge = INT64_C(1) << 40;
    const bool negative = *at == '-';
    Natural a, b;
    int64_t count = 0, power = 0, of_ten = 0;  // a has so many digits; the number is a * 10^power
    bool point = false, more = false;
    for (at += negative; at < end && (*at | 0x20) != 'e'; at++) {
        if (*at == '.') point = true;
        else if (count < most_digits) a.multiply_add(10, (uint32_t)(*at - '0')), count += !a.is_zero(), power -= point;
        else more |= *at != '0', power += !point;
    }
    if (more) a.multiply_add(10, 1), count++, power--;  // a little more than its first digits
    if (at < end) {
        const bool below = *++at == '-';
        for (at += below || *at == '+'; at < end; at++)
            if (of_ten < huge) of_ten = 10 * of_ten + (*at - '0');
        power += below ? -of_ten : of_ten;
    }
    double value = 0;
    if (!a.is_zero() && count + power > 310) value = INFINITY;
    else if (!a.is_zero() && count + power > -330) {
        b.multiply_add(1, 1);
        for (; power > 0; power--) a.multiply_add(10, 0);
        for (; power < 0; power++) b.multiply_add(10, 0);
        int exponent = 0;
        for (; a.compared_with(b) < 0; exponent--) a.multiply_add(2, 0);
        for (;; exponent++) {
            Natural twice = b;
            twice.multiply_add(2, 0);
            if (a.compared_with(twice) < 0) break;
            b = twice;
        }
        value = rounded(a, b, exponent);
    }
    return negative ? -value : value;
}

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
