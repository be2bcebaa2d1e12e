// Reads JSON: what yyjson has parsed, looked at as Python looks at it. Of two equal keys the last one counts.
#pragma once
#include <cmath>
#include <cstring>
#include <string>

#include "yyjson/yyjson.h"

namespace proxykernels {

class Json {
public:
    Json(yyjson_val* value = nullptr) : value(value) {}

    bool is_there() const { return value; }
    bool is_null() const { return value && yyjson_is_null(value); }
    bool is_object() const { return yyjson_is_obj(value); }
    bool is_list() const { return yyjson_is_arr(value); }
    bool is_text() const { return yyjson_is_str(value); }
    bool is_bool() const { return yyjson_is_bool(value); }
    bool is_true() const { return yyjson_is_true(value); }
    bool is_number() const { return yyjson_is_num(value) && std::isfinite(yyjson_get_num(value)); }
    double number() const { return yyjson_get_num(value); }
    std::string text() const { return {yyjson_get_str(value), yyjson_get_len(value)}; }
    // Whether it is an integer of least <= value < end.
    bool is_whole(int64_t least, int64_t end, int64_t& to) const {
        if (!yyjson_is_int(value)) return false;
        if (yyjson_is_uint(value) && yyjson_get_uint(value) > INT64_MAX) return false;
        to = yyjson_get_sint(value);
        return least <= to && to < end;
    }
    int64_t size() const { return (int64_t)(is_list() ? yyjson_arr_size(value) : yyjson_obj_size(value)); }

    Json operator[](const char* key) const {
        yyjson_val* found = nullptr;
        each([&](const char* name, size_t length, Json item) {
            if (length == strlen(key) && !memcmp(name, key, length)) found = item.value;
        });
        return found;
    }
    // Calls visit(item) for the items of a list; `each` calls visit(key, length, item) for those of an object.
    template <class Visit>
    void each_item(Visit visit) const {
        yyjson_arr_iter items = yyjson_arr_iter_with(value);
        while (yyjson_val* item = yyjson_arr_iter_next(&items)) visit(Json(item));
    }
    template <class Visit>
    void each(Visit visit) const {
        yyjson_obj_iter items = yyjson_obj_iter_with(value);
        while (yyjson_val* key = yyjson_obj_iter_next(&items))
            visit(yyjson_get_str(key), yyjson_get_len(key), Json(yyjson_obj_iter_get_val(key)));
    }

private:
    yyjson_val* value;
};

// A text that was parsed, and its memory.
class JsonText {
public:
    JsonText(const char* text, size_t size) : document(yyjson_read(text, size, YYJSON_READ_NOFLAG)) {}
    ~JsonText() { yyjson_doc_free(document); }
    JsonText(const JsonText&) = delete;
    bool is_sound() const { return document; }
    Json root() const { return yyjson_doc_get_root(document); }

private:
    yyjson_doc* document;
};

}  // namespace proxykernels
