"""Builds the C++ kernels: one plain shared library with a C interface, for each instruction set of the machine.

The library uses no header of torch or Python, so it is tied to no version of them. Without a compiler pip makes a wheel
of Python alone, for any machine, which says what to do when a CPU tensor needs the kernels. A build that fails with one
is an error, and so is build_ext without one; the library of a former build stays as it was.
"""

import hashlib
import logging
import os
import platform
import re
import runpy
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, OptionError

# build_ext --checked: for tests/checked_build.py. The later -O wins; an error ends the process.
CHECKED = [
    "-O1",
    "-g1",  # lines for reports; what a debugger asks of variables takes as long again
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]
# Without its symbols the library takes a seventh of the disk. Apple's linker has no such flag.
STRIPPED = [] if platform.system() == "Darwin" else ["-s"]

sources, headers, table = (runpy.run_path(f"kernels/{name}.py") for name in ("cpu/sources", "cpu/headers", "table"))

# The features of each instruction set are those that dispatch.cpp asks the machine for. The slowest comes first. Code
# for AVX-512 serves "amx", too (target.cpp): where the compiler knows matrix tiles, their kernels are beside it.
TILES = ["-mamx-tile", "-mamx-int8", "-D__AMX_INT8__=1"]  # a macro that clang before version 17 does not define
TARGETS = {
    "portable": [],
    "avx2": (avx2 := ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mpopcnt"]),
    "avx512": (avx512 := [*avx2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]),
    "amx": [*avx512, *TILES],
}
FOR_X86 = "#if !defined(__x86_64__)\n#error\n#endif\n"


def folders(top):
    """A folder and those below it, as packages."""
    return find_namespace_packages(include=[top, f"{top}.*"], exclude=["*.__pycache__"])


def readme():
    """README as a package index shows it, alone: without pictures, and links to files become their paths."""

    def path(link):
        text, file = link.groups()
        return file if file.endswith(text) else f"{text} ({file})"

    text = re.sub(r"!\[[^]]*\]\([^)]*\)\n", "", Path("README.md").read_text(encoding="utf-8"))
    return re.sub(r"\[([^]]*)\]\((?!https:)([^)#]*)[^)]*\)", path, text)


LIBRARY = "_kernels"
FORMER = "_cpu", "_engine"  # libraries of versions before
PACKAGED = ["py.typed", "*.cpp", "*.c", "*.h", "*.hpp", "CMakeLists.txt", "*.in", "*.safetensors", "fashion-mnist/*"]
VERSION = re.search('__version__ = "(.*)"', Path("proxykernels/_version.py").read_text(encoding="utf-8")).group(1)
ONCE, BY_OPENMP = ([f"kernels/cpu/src/{name}.cpp" for name in sources[kind]] for kind in ("COMMON", "BY_OPENMP"))
FOR_EACH_TARGET = [f"kernels/cpu/src/{name}.cpp" for kind in ("KERNELS", "TASKS", "ENGINE") for name in sources[kind]]
WITHOUT_OPENMP = ["-Wno-unknown-pragmas"]
INTERFACE = [("PK_TARGET", "any_machine"), ("PK_VERSION", f'"{VERSION}"')]  # macros of kernels/cpu/c


def code_of(target):
    """The instruction set whose code a target runs."""
    return "avx512" if target == "amx" else target


def remove_libraries(folder, but=None):
    """Remove libraries of former builds, which would pass for this build's. ``but``: the name of the one to keep."""
    for name in (LIBRARY, *FORMER):
        for library in Path(folder).rglob(f"{name}.*"):
            if library.name != but:
                library.unlink()


@cache
def content_of(name):
    """A hash of a file, "" if there is none."""
    path = Path(name)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def key_of(made, how):
    """What an object is made of: a hash of how, and of the files that its compiler read, which it has listed."""
    listed = made.with_suffix(".d")
    names = listed.read_text().replace("\\\n", " ").split()[1:] if listed.is_file() else []  # a name has no spaces here
    return hashlib.sha256(repr((how, [(name, content_of(name)) for name in names])).encode()).hexdigest()


class BuildKernels(build_ext):
    user_options = [
        *build_ext.user_options,
        ("target=", None, "the only instruction set to compile for, such as avx2: quick, for the machine at hand"),
        ("emulate-tiles", None, "with matrix tiles (AMX) emulated, for a processor with AVX-512 alone"),
        ("checked", None, "with assertions, sanitizers and emulated matrix tiles"),
    ]
    boolean_options = [*build_ext.boolean_options, "emulate-tiles", "checked"]

    def initialize_options(self):
        super().initialize_options()
        self.target: str | None = None
        self.emulate_tiles = self.checked = self.built = False

    def finalize_options(self):
        kept = self.build_temp or "build/objects"  # an editable install would take a temporary folder
        super().finalize_options()
        self.build_temp = kept

    def run(self):
        super().run()
        if self.inplace and self.built:
            remove_libraries("kernels", but=f"{LIBRARY}.so")

    def build_extensions(self):
        """Compile all objects in one pool, those that take longest first."""
        if self.compiler.compiler_type == "msvc":
            raise SystemExit(
                "proxykernels' C++ kernels are written for GCC and Clang and MSVC does not compile them: install "
                "proxykernels under WSL 2, with a compiler from `apt-get install g++`"
            )
        if not self.knows([], "#include <atomic>\n"):
            return self.build_nothing()
        for program in filter(None, self.programs()):
            if shutil.which("ccache") and Path(shutil.which(program[0]) or "").resolve().name != "ccache":
                program.insert(0, "ccache")
        table["write_headers"](Path("kernels/cpu/src"))
        headers["write"](Path("kernels/cpu"))
        start, say = time.monotonic(), lambda text: self.announce(f"proxykernels: {text}", logging.INFO)
        jobs = self.jobs()
        todo = [job for job in jobs if not self.is_kept(*job)]
        say(f"compiling {len(todo)} of {len(jobs)} C++ files; all of them take about two minutes of a core")

        def compile_one(job):
            self.compile(*job)
            say(f"{job[1]}/{Path(job[0]).name} compiled, {time.monotonic() - start:.0f} s after the start")

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # each thread waits for a compiler
            list(pool.map(compile_one, todo))
        self.objects = [str(self.object_of(source, folder)) for source, folder, *_ in jobs]
        super().build_extensions()
        self.built = True

    def build_nothing(self):
        """Where there is no compiler."""
        remedy = "install a C++ compiler (for example `apt-get install g++`), then"
        if "build_ext" in self.distribution.commands:
            raise SystemExit(
                "proxykernels' C++ kernels were NOT built, for no C++ compiler works here, and the library of a "
                f"former build is as it was: {remedy} run this command again"
            )
        remove_libraries(self.build_lib)
        self.extensions = []
        self.warn(
            "proxykernels is installed WITHOUT its C++ kernels, for no C++ compiler works here: CPU tensors will take "
            f"slow reference code, and there is no engine; {remedy} install proxykernels again"
        )

    def jobs(self):
        """What to compile: sources, each with a folder, macros and flags."""
        known = list(TARGETS) if self.knows([], FOR_X86) else ["portable"]  # a compiler may be for another machine
        if self.target not in (None, *known):
            raise OptionError(f"--target must be one of {', '.join(known)} with this compiler, got {self.target}")
        has_tiles = "amx" in known and self.knows(TARGETS["amx"])
        targets = [name for name in ([self.target] if self.target else known) if name != "amx" or has_tiles]
        compiled = {name: TARGETS[name] for name in dict.fromkeys(map(code_of, targets))}
        if has_tiles and "avx512" in compiled:
            compiled["avx512"] = TARGETS["amx"]
        jobs = []
        for source in self.extensions[0].sources:
            path = Path(source)
            flags = [*sources["own_flags"](path), *(self.openmp()[0] if source in BY_OPENMP else WITHOUT_OPENMP)]
            if path.parent.name == "c":
                jobs.append((source, "common", INTERFACE, flags))
            elif path.stem == "dispatch":
                macros = [("PK_SOURCES", f'"{sources["fingerprint"]()}"')]
                macros += [("PK_TARGETS", "".join(f"TARGET({name})" for name in reversed(targets)))]
                jobs.append((source, "common", macros, flags))
            elif source in ONCE:
                jobs.append((source, "common", [], flags))
            else:
                jobs += [
                    (source, target, [("PK_TARGET", target)], [*flags, *compiled[target]])
                    for target in reversed(compiled)
                ]
        return jobs

    def build_extension(self, extension):
        library, openmp = Path(self.get_ext_fullpath(extension.name)), self.openmp()[1]
        library.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-pthread", *openmp, *(CHECKED if self.checked else STRIPPED)]  # the engine's threads, and torch's
        new = library.with_name(f"new{library.name}")  # takes the place of a former one once it is whole
        self.compiler.link_shared_object(self.objects, str(new), extra_postargs=flags, target_lang="c++")
        new.replace(library)
        if not openmp:
            self.warn(
                "the C++ kernels run on ONE thread, for this compiler's OpenMP is missing or is not the one that torch "
                "brings: build them with g++ (CC=gcc CXX=g++) on Linux, install libomp on macOS"
            )

    @cache  # noqa: B019 - of a command, which lives as long as the process
    def openmp(self):
        """Flags that compile with OpenMP, and flags that link."""
        probe = sources["SHARES_TORCH_RUNTIME"]
        return next((flags for flags in sources["OPENMP"] if self.knows(flags[0], probe)), (WITHOUT_OPENMP, []))

    def get_ext_filename(self, name):
        """Without the version of Python: the library does not depend on it."""
        return str(Path(*name.split(".")).with_suffix(".so"))

    def programs(self):
        """The compilers of C and C++, which setuptools keeps apart, with their flags."""
        return [getattr(self.compiler, name, []) for name in ("compiler_so", "compiler_so_cxx")]

    @cache  # noqa: B019 - of a command, which lives as long as the process
    def versions(self):
        """What the compilers say of themselves."""
        programs = [program for program in self.programs() if program and shutil.which(program[0])]
        return [subprocess.run([*program, "--version"], capture_output=True, text=True).stdout for program in programs]

    def object_of(self, source, folder):
        """Where the object of a source is kept."""
        return Path(self.compiler.object_filenames([source], output_dir=str(Path(self.build_temp) / folder))[0])

    def macros_and_flags(self, macros, flags):
        """All of a source, with those of a kind of build."""
        macros = [*macros, *[("PK_CHECKED", None)] * self.checked]
        macros += [("PK_EMULATED_TILES", None)] * (self.checked or self.emulate_tiles)
        return macros, [*sources["FLAGS"], *flags, *CHECKED * self.checked]

    def key(self, source, folder, macros, flags):
        """See key_of."""
        programs = [[word for word in program or [] if word != "ccache"] for program in self.programs()]
        how = programs, self.versions(), *self.macros_and_flags(macros, flags)
        return key_of(self.object_of(source, folder), how)

    def is_kept(self, *job):
        """Whether the object of a former build is what a compiler would make now."""
        made = self.object_of(*job[:2])
        noted = made.with_suffix(".key")
        return made.is_file() and noted.is_file() and noted.read_text() == self.key(*job)

    def compile(self, source, folder, macros, flags):
        """Make an object, and note what it is made of once it is whole."""
        noted = self.object_of(source, folder).with_suffix(".key")
        noted.unlink(missing_ok=True)
        defined, options = self.macros_and_flags(macros, flags)
        options = [*options, "-MD"]  # which lists the files that are read
        output = str(Path(self.build_temp) / folder)
        self.compiler.compile([source], output_dir=output, macros=defined, extra_postargs=options)
        noted.write_text(self.key(source, folder, macros, flags))

    def knows(self, flags, text=""):
        """Whether the compiler takes some flags, and a text with them."""
        source = Path(self.build_temp) / "probe.cpp"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text)
        try:
            self.compile(str(source), "flags", [], flags)
        except CompileError:
            return False
        return True


class Wheel(bdist_wheel):
    def get_tag(self):
        """Of any Python 3, for nothing of Python is in the libraries; where none was built, of any machine, too."""
        self.root_is_pure = (
            "build_ext" in self.distribution.have_run and not self.get_finalized_command("build_ext").built
        )
        return "py3", "none", super().get_tag()[2]


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    packages=[*folders("proxykernels"), *(f"proxykernels.{name}" for name in folders("kernels"))],
    package_dir={"proxykernels.kernels": "kernels"},
    package_data={"": PACKAGED},
    exclude_package_data={"": [".clang-format"]},  # of a checkout
    ext_modules=[
        Extension(
            f"proxykernels.kernels.cpu.{LIBRARY}",
            sources=[*ONCE, *FOR_EACH_TARGET, *map(str, sources["interface"]())],
            depends=[str(path) for path in sources["paths"]()],
            language="c++",
        ),
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)
