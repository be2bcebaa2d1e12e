// proxykernels info|run|bench NET: a network from a file that Engine.save wrote, without Python.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "common.h"

static const char usage[] =
    "proxykernels runs spiking networks from files that Engine.save wrote in Python.\n"
    "\n"
    "    proxykernels info NET            layers, sizes, parameters\n"
    "    proxykernels run NET INPUT       the class of each sample, and logits or spikes\n"
    "    proxykernels bench NET [INPUT]   milliseconds of a run, and of a step of a stream, of images or of noise\n"
    "\n"
    "INPUT   .npy: images [N, ...] or frames [T, N, ...] of floats or bytes (of 255ths), spikes [T, N, ...] of bool, events "
    "with\n"
    "        fields t, x, y and p; .csv: events, four whole numbers t, x, y, p a line\n"
    "-T N            steps (of images and of events without --dt; bench: 4)\n"
    "--dt TIME       length of a step of events; with -T steps begin at t = 0, else at the first event\n"
    "--layers        firing rate and operations of each layer\n"
    "--out FILE.npy  logits or spikes, float32\n"
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
