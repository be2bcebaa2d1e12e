#include "decimal.h"

#include <cmath>
#include <cstdint>
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

double nearest_double(const char* at, const char* end) {
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

}  // namespace proxykernels
