// Reads JSON, such as a plan's description and a container's header. It takes what Python's json takes, except for lone surrogates,
// NaN, Infinity and more than most_nested levels of lists and objects. A key that stands twice in an object means its last value.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>

namespace proxykernels {

// A value is a place in the text, which must outlive it. The whole text is checked once, by read_json; after that each function
// reads from the place on. A value that is not there has no place, and is of no type.
class Json {
public:
    static constexpr int most_nested = 16;
    Json() = default;

    bool is_there() const { return at; }
    bool is_null() const { return starts_with('n'); }
    bool is_object() const { return starts_with('{'); }
    bool is_list() const { return starts_with('['); }
    bool is_text() const { return starts_with('"'); }
    bool is_bool() const { return is_true() || starts_with('f'); }
    bool is_true() const { return starts_with('t'); }
    bool is_number() const { return has_digits() && std::isfinite(number()); }
    double number() const;  // of a number: the nearest double
    std::string text() const;  // of a text, without its quotes and escapes, in UTF-8; of anything else nothing
    // Whether it is written as an integer, and least <= value < end.
    bool is_whole(int64_t least, int64_t end, int64_t& to) const;

    int64_t size() const {  // of a list or an object
        int64_t count = 0;
        visit_items([&](Json, Json) { count++; });
        return count;
    }
    Json operator[](const char* key) const {
        Json found;
        each([&](const std::string& name, Json item) {
            if (name == key) found = item;
        });
        return found;
    }
    // Calls visit(item) for each item of a list.
    template <class Visit>
    void each_item(Visit visit) const {
        if (is_list()) visit_items([&](Json item, Json) { visit(item); });
    }
    // Calls visit(key, item) for each item of an object.
    template <class Visit>
    void each(Visit visit) const {
        if (is_object()) visit_items([&](Json key, Json item) { visit(key.text(), item); });
    }

private:
    friend Json read_json(const char* text, size_t size);
    Json(const char* at, const char* end) : at(at), end(end) {}

    bool starts_with(char c) const { return at && *at == c; }
    bool has_digits() const { return at && (*at == '-' || (*at >= '0' && *at <= '9')); }
    Json first() const;  // the first item of a list, or the first key of an object
    Json item_of_key() const;  // of a key, the item behind it
    Json next() const;  // of an item, the next item of the list, or the next key of the object
    template <class Visit>
    void visit_items(Visit visit) const {
        const bool keys = is_object();
        for (Json item = first(); item.is_there();) {
            const Json key = item;
            if (keys) item = key.item_of_key();
            visit(keys ? key : item, item);
            item = item.next();
        }
    }

    const char *at = nullptr, *end = nullptr;  // the end of the whole text
};

// The value of a text that holds one, and besides it only white space. It is not there if the text is not JSON.
Json read_json(const char* text, size_t size);

}  // namespace proxykernels
