// proxykernels info|run|bench NET: a network from a file that Engine.save wrote, without Python.
#include "common.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <new>

Network open_network(const Options& options) {
    pk_network* network = nullptr;
    const char* const target = options.target.empty() ? nullptr : options.target.c_str();
    must([&](pk_error* error) { return pk_network_open(options.net.c_str(), target, &network, error); });
    return Network(network);
}

Stream open_stream(const Network& network, long N, long threads) {
    pk_stream* stream = nullptr;
    must([&](pk_error* error) { return pk_stream_open(network.get(), N, threads, &stream, error); });
    return Stream(stream);
}

static pk_info info_of(const Network& network) {
    pk_info info;
    must([&](pk_error* error) { return pk_network_info(network.get(), &info, error); });
    return info;
}

static pk_layer layer_of(const Network& network, int64_t layer) {
    pk_layer info;
    must([&](pk_error* error) { return pk_layer_info(network.get(), layer, &info, error); });
    return info;
}

static std::string size_of(int64_t C, int64_t H, int64_t W) {
    return std::to_string(C) + "x" + std::to_string(H) + "x" + std::to_string(W);
}

void inform(const Options& options) {
    const Network network = open_network(options);
    const pk_info info = info_of(network);
    printf("input %s%s, output %s, %lld parameters, %s, %s, %.1f kB packed\n", size_of(info.C, info.H, info.W).c_str(),
           info.takes_values ? info.takes_spikes ? " of values or spikes" : " of values" : " of spikes",
           size_of(info.out_C, info.out_H, info.out_W).c_str(), (long long)info.parameters, info.precision, info.target,
           (double)info.packed_bytes / 1000);
    for (int64_t k = 0; k < info.layers; k++) {
        const pk_layer layer = layer_of(network, k);
        const std::string kind = *layer.neuron ? std::string(layer.kind) + ", " + layer.neuron : layer.kind;
        printf("%3lld  %-20s %-36s %14s %12lld\n", (long long)k, layer.name, kind.c_str(),
               size_of(layer.C, layer.H, layer.W).c_str(), (long long)layer.parameters);
    }
}

// A sample's answer: the class, and the numbers that tell it.
static void print_sample(int64_t n, const std::vector<float>& values, size_t size) {
    const float* const of = values.data() + (size_t)n * size;
    printf("%lld: class %lld of", (long long)n, (long long)(std::max_element(of, of + size) - of));
    for (size_t c = 0; c < std::min<size_t>(size, 16); c++) printf(" %.6g", of[c]);
    printf(size > 16 ? " ...\n" : "\n");
}

static void print_layers(const Network& network, const Stream& stream, const pk_info& info, int64_t sample_steps) {
    for (int64_t k = 0; k < info.layers; k++) {
        const pk_layer layer = layer_of(network, k);
        pk_work work;
        must([&](pk_error* error) { return pk_layer_work(stream.get(), k, &work, error); });
        const double places = (double)(layer.C * layer.H * layer.W) * (double)sample_steps;
        printf("%3lld  %-20s rate %.4f  additions %lld  multiplications %lld\n", (long long)k, layer.name,
               (double)work.spikes / places, (long long)work.additions, (long long)work.multiplications);
    }
}

// Logits, else spikes, else potentials, of each sample; written to a file if the options name one. T: steps of the last call.
static std::vector<float> answer_of(const Stream& stream, const pk_info& info, const Options& options, int64_t N, int64_t T) {
    const size_t all = (size_t)(N * info.out_C * info.out_H * info.out_W);
    std::vector<float> answer(all);
    if (info.has_logits) must([&](pk_error* error) { return pk_logits(stream.get(), answer.data(), all, error); });
    else if (info.fires) {
        std::vector<int32_t> counts(all);
        must([&](pk_error* error) { return pk_counts(stream.get(), counts.data(), all, error); });
        std::copy(counts.begin(), counts.end(), answer.begin());
    } else {  // a readout: its potentials after the last step
        std::vector<float> values((size_t)T * all);
        must([&](pk_error* e) { return pk_layer_values(stream.get(), info.layers - 1, values.data(), values.size(), e); });
        std::copy(values.end() - (ptrdiff_t)all, values.end(), answer.begin());
    }
    const std::vector<int64_t> shape = {N, info.out_C, info.out_H, info.out_W};
    if (!options.out.empty()) write_npy(options.out, "<f4", shape, answer.data(), all * sizeof(float));
    return answer;
}

void run(const Options& options) {
    const Network network = open_network(options);
    const pk_info info = info_of(network);
    const Input input = read_input(options, info);
    const int64_t T = input.T ? input.T : options.T;
    const Stream stream = open_stream(network, input.N, options.threads);
    must([&](pk_error* error) { return pk_run(stream.get(), input.kind, input.data(), input.size(), T, error); });
    const size_t size = (size_t)(info.out_C * info.out_H * info.out_W);
    const std::vector<float> answer = answer_of(stream, info, options, input.N, T);
    printf("%s after %lld steps of %lld samples\n",
           info.has_logits ? "logits"
           : info.fires    ? "spikes"
                           : "potentials",
           (long long)T, (long long)input.N);
    for (int64_t n = 0; n < input.N; n++) print_sample(n, answer, size);
    if (options.layers) print_layers(network, stream, info, input.N * T);
    if (fflush(stdout) != 0 || ferror(stdout)) throw Problem("the answers cannot be written to the standard output");
}

static double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec * 1e-6;
}

// Random images; or spikes, a quarter of all, but none where a byte has bits of channels that are not there.
static Input random_input(const pk_info& info, int64_t N, int64_t T) {
    uint32_t random = 1;
    const auto draw = [&] { return (random = random * 1664525 + 1013904223) >> 16; };
    Input input;
    input.N = N;
    if (info.takes_values) {
        input.values.resize((size_t)(N * info.C * info.H * info.W));
        for (float& value : input.values) value = (float)(draw() & 255) / 255;
    } else {
        input.kind = PK_SPIKES, input.T = T;
        input.bytes.resize((size_t)(N * T * info.H * info.W * ((info.C + 7) / 8)));
        for (uint8_t& byte : input.bytes) byte = info.C % 8 ? 0 : (uint8_t)(draw() & draw());
    }
    return input;
}

static void print_times(const std::string& name, std::vector<double>& ms) {
    std::sort(ms.begin(), ms.end());
    const size_t n = ms.size();
    printf("%s: %.4g ms (least %.4g, half of them %.4g to %.4g)\n", name.c_str(), ms[n / 2], ms[0], ms[n / 4],
           ms[n - 1 - n / 4]);
}

void bench(const Options& options) {
    constexpr int64_t random_samples = 64;
    const int64_t asked = options.T ? options.T : 4;
    const Network network = open_network(options);
    const pk_info info = info_of(network);
    const Input input = options.input.empty() ? random_input(info, random_samples, asked) : read_input(options, info);
    const bool recording = !options.input.empty() && input.T;  // a stream goes through it again and again, from rest
    if (recording && input.N > 1) throw Problem("bench takes a recording of one sample, or images");
    const int64_t T = recording ? input.T : asked, pieces = recording ? T : input.N, steps = recording ? T : 1;
    const size_t width = input.is_bytes() ? 1 : sizeof(float), piece = input.size() / (size_t)pieces;
    const size_t frame = !recording && input.kind == PK_SPIKES ? piece / (size_t)T : piece;
    std::vector<double> run_times, step_times;
    const auto go = [&](const Stream& stream, auto call, int64_t at, size_t size, int64_t length) {
        const char* const data = (const char*)input.data() + width * piece * (size_t)at;
        const double start = now();
        must([&](pk_error* error) { return call(stream.get(), input.kind, data, size, length, error); });
        return now() - start;
    };
    int64_t bytes = 0;
    {
        const Stream stream = open_stream(network, 1, options.threads);  // has the memory of single steps
        for (int64_t t = 0; t < steps; t++) go(stream, pk_advance, t, frame, 1);
        if (recording) answer_of(stream, info, options, 1, 1);
        must([&](pk_error* error) { return pk_memory(stream.get(), &bytes, error); });
    }
    const Stream stream = open_stream(network, 1, options.threads);
    for (long i = 0; i < options.runs; i++) {  // of images each run has another than the one before
        const int64_t first = recording ? 0 : i % input.N;
        run_times.push_back(go(stream, pk_run, first, recording ? input.size() : piece, T));
        if (recording) must([&](pk_error* error) { return pk_reset(stream.get(), error); });
        for (int64_t t = 0; t < steps; t++) step_times.push_back(go(stream, pk_advance, first + t, frame, 1));
    }
    printf("%s, %s, one sample, %ld runs\n", info.target, info.precision, options.runs);
    print_times("T = " + std::to_string(T) + " from rest", run_times);
    print_times("a step of a stream", step_times);
    printf("memory: %.1f kB of weights, %.1f kB of a stream\n", (double)info.packed_bytes / 1000, (double)bytes / 1000);
}

static const char usage[] =
    "proxykernels runs spiking networks from files that Engine.save wrote in Python.\n"
    "\n"
    "    proxykernels info NET            layers, sizes, parameters\n"
    "    proxykernels run NET INPUT       the class of each sample, and logits or spikes\n"
    "    proxykernels bench NET [INPUT]   milliseconds of a run, and of a step of a stream, of images, a recording or noise\n"
    "\n"
    "INPUT   .npy: images [N, ...] or frames [T, N, ...] of floats or bytes (of 255ths), spikes [T, N, ...] of bool, events "
    "with\n"
    "        fields t, x, y and p; .csv: events, four whole numbers t, x, y, p a line\n"
    "-T N            steps (of images and of events without --dt; bench: 4)\n"
    "--dt TIME       length of a step of events; with -T steps begin at t = 0, else at the first event\n"
    "--layers        firing rate and operations of each layer\n"
    "--out FILE.npy  logits or spikes, float32; of bench those of a recording, step by step\n"
    "--target NAME   instruction set: amx, avx512, avx2 or portable (the fastest)\n"
    "--threads N     (OMP_NUM_THREADS, or all processors)\n"
    "--runs N        of bench (200)\n";

static long number(const std::string& name, const char* text) {
    char* end = nullptr;
    errno = 0;
    const long value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < 0) throw Problem(name + " must be a number of at least 0, got " + text);
    return value;
}

static Options parse(int argc, char** argv) {
    Options options;
    std::vector<std::string> names;
    for (int i = 1; i < argc; i++) {
        const std::string word = argv[i];
        if (word == "--layers") options.layers = true;
        else if (word.size() > 1 && word[0] == '-') {
            if (i + 1 == argc) throw Problem(word + " needs a value");
            const char* const value = argv[++i];
            if (word == "-T") options.T = number(word, value);
            else if (word == "--dt") options.dt = number(word, value);
            else if (word == "--threads") options.threads = number(word, value);
            else if (word == "--runs") options.runs = number(word, value);
            else if (word == "--target") options.target = value;
            else if (word == "--out") options.out = value;
            else throw Problem("there is no option " + word + "; `proxykernels --help` lists all");
        } else names.push_back(word);
    }
    if (names.size() != 2 && names.size() != 3) throw Problem(usage);
    options.command = names[0], options.net = names[1], options.input = names.size() == 3 ? names[2] : "";
    const bool takes_none = options.command == "info" || options.command == "bench", has_one = names.size() == 3;
    const bool takes_one = options.command == "run" || options.command == "bench";
    if (has_one ? !takes_one : !takes_none) throw Problem(usage);
    if (options.command == "bench" && options.runs < 1) throw Problem("--runs must be at least 1");
    return options;
}

int main(int argc, char** argv) {
    try {
        if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) return fputs(usage, stdout) < 0;
        if (argc == 2 && !strcmp(argv[1], "--version")) return printf("proxykernels %s\n", pk_version()) < 0;
        const Options options = parse(argc, argv);
        (options.command == "info" ? inform : options.command == "run" ? run : bench)(options);
        return 0;
    } catch (const Problem& problem) {
        fprintf(stderr, "%s%s\n", problem.what() == std::string(usage) ? "" : "proxykernels: ", problem.what());
    } catch (const std::bad_alloc&) { fprintf(stderr, "proxykernels: there is no memory for this\n"); }
    return 1;
}
