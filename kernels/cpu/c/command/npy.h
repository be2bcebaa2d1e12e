// Arrays in files of numpy's.
#pragma once
#include "common.h"

struct Column {
    std::string type;                // such as "<i8"
    std::vector<std::string> names;  // such as "t", with a title two; none in an array that is not structured
};

struct Array {
    std::vector<Column> columns;  // of a structured array; of others one without a name
    std::vector<int64_t> shape;
    std::vector<uint8_t> bytes;
    bool columns_first = false;

    int64_t size() const;       // elements
    int64_t item_bytes() const;  // of an element
    // The values of a column, which is of integers or floats.
    std::vector<double> values(size_t column) const;
};

Array read_npy(const std::string& path);
void write_npy(const std::string& path, const char* type, const std::vector<int64_t>& shape, const void* data, size_t bytes);
