// The Listener of hear.hpp for the browser's page: build_demo.py compiles it beside the engine.
#include "hear.hpp"

#include <new>

#define PK_EXPORT(name) extern "C" __attribute__((export_name(#name)))

PK_EXPORT(listener_open) int listener_open(const pk_network* network, int rate, Listener** opened, pk_error* error) {
    *opened = new (std::nothrow) Listener(rate);
    if (!*opened) {
        *error = pk_error{PK_NO_MEMORY, "there is no memory for a listener"};
        return PK_NO_MEMORY;
    }
    return (*opened)->open(network, error);
}
PK_EXPORT(listener_step) int listener_step(Listener* listener, const float* sound, int* word, pk_error* error) {
    return listener->step(sound, word, error);
}
PK_EXPORT(listener_samples) int listener_samples(const Listener* listener) { return listener->cochlea.samples; }
PK_EXPORT(listener_spikes) const uint8_t* listener_spikes(Listener* listener) { return listener->now(); }
PK_EXPORT(listener_sums) const float* listener_sums(const Listener* listener) { return listener->sums.data(); }
PK_EXPORT(listener_classes) int listener_classes(const Listener* listener) { return (int)listener->classes; }
PK_EXPORT(listener_speaking) int listener_speaking(const Listener* listener) { return listener->speaking; }
