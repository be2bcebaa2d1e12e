"""The C library's reader of JSON takes and refuses what Python's json does, and finds the same values, bit for bit."""

import json
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from proxykernels.kernels.cpu import sources

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
MOST_NESTED = 16
SANITIZED = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-exceptions"]

NUMBERS = """
0 -0 1 -1 10 123 9007199254740991 9007199254740992 9007199254740993 9007199254740995 -9007199254740993
9223372036854775806 9223372036854775807 9223372036854775808 -9223372036854775807 -9223372036854775808
-9223372036854775809 18446744073709551615 18446744073709551616 100000000000000000000000000000 0.0 -0.0 0.1 -0.1 0.5
1e0 1E5 1e+5 1e-5 1.5e3 0e0 0e999999999999 -0e5 0.3 2.5 1e22 1e23 8.5e23 1e308 1.7976931348623157e308
1.7976931348623158e308 1.7976931348623159e308 -1e309 1e999999999999999999999999 5e-324 2e-324 3e-324 1e-324
2.4703282292062327e-324 2.4703282292062328e-324 2.2250738585072014e-308 2.2250738585072011e-308 1e-330 1e-999999999999
4.9406564584124654e-324 0.000000000000000000000000000000000000001 16777217 16777217.0 3.4028235677973366e38
1.00000005960464477539062500 1.00000005960464477539062501 7.0064923216240853e-46
0.1e1 123456789012345678901234567890e-20
""".split()
# 1 + 2^-53 lies half-way between two doubles: what follows its digits decides.
HALF = "1.00000000000000011102230246251565404236316680908203125"
NUMBERS += [HALF, HALF + "0" * 900, HALF + "0" * 900 + "1", HALF[:-1] + "4" + "9" * 900, "1" + "0" * 400]
NUMBERS += ["0." + "0" * 400 + "1", "0." + "0" * 400 + "1e401", "1" + "0" * 400 + "e-400", "9" * 2000 + "e-1990"]
VALID = [
    *NUMBERS, "null", "true", "false", '""', "[]", "{}", " [ ] ", "\t{\r\n} ", "[1,2,3]", "[ 1 , 2 ]", '{"a":1}',
    '{ "a" : 1 , "b" : 2 }', '{"a":1,"a":2,"b":3,"a":[]}', '{"":0,"\\u0061":1,"a":2}', '"\\"\\\\\\/\\b\\f\\n\\r\\t"',
    '"\\u0000\\u001f\\u00e9\\u20ac\\uD834\\uDD1e"', '"\x7f é € 𝄞 \U0010ffff \ud7ff \ue000 \uffff"',
    '[[],[[]],{"a":{"b":[{}]}}]', '{"a]":"}","{":["[\\""]}', "[" * MOST_NESTED + "]" * MOST_NESTED,
    '{"a":' * MOST_NESTED + "0" + "}" * MOST_NESTED,
]  # fmt: skip
DAMAGED = [
    "", " ", "nul", "nulL", "True", "NaN", "Infinity", "-Infinity", "-", "+1", "01", "-01", "1.", ".5", "1.e5", "1e",
    "1e+", "1e-", "0x10", "1 2", "1,", "--1", "1e1.5", "1e5e5", "[", "]", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1}",
    "{", "}", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":1,}', "{,}", '{"a" 1}', "{a:1}", "{1:1}", '{"a":1]',
    '{"a":}', '{"a",1}', "[]]", "{}{}", "[] x", '"', '"a', '"\\', '"\\"', '"\\x"', '"\\u"', '"\\u12"', '"\\u12g4"',
    '"\\u 123"', '"\\U0041"', '"\\u-123"', "'a'", '"a\nb"', '"a\tb"', '"\0"', '"\x1f"', "\ufeff1", "[1]\0", "\0",
    "/**/1", "\v1", "\xa01", "tru", "truefalse", '"\\\0"',
]  # fmt: skip
# Python's json accepts some of these.
REFUSED = [
    b'"\\ud800"', b'"\\udc00"', b'"\\ud800\\ud800"', b'"\\ud800a"', b'"\\ud800\\n"', b'"\\udc00\\ud800"',
    b'"\\ud800\\u"', b'"\x80"', b'"\xc3"', b'"\xc3\x28"', b'"\xc0\x80"', b'"\xc1\xbf"', b'"\xe0\x9f\xbf"',
    b'"\xe2\x82"', b'"\xe2\x28\xa1"', b'"\xed\xa0\x80"', b'"\xed\xbf\xbf"', b'"\xf0\x8f\xbf\xbf"',
    b'"\xf4\x90\x80\x80"', b'"\xf5\x80\x80\x80"', b'"\xff"', b'"\xf0\x9d\x84"', b'"\xf8\x88\x80\x80\x80"',
    b'"\xe2\x82', b"[" * 17 + b"]" * 17, b"[" * 10**6, b'{"a":' * 10**6,
]  # fmt: skip


class Pairs(list):
    """The keys and values of an object."""


class Number(str):
    """A number as it is written."""


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A function that reads texts, and returns a line for each."""
    program = tmp_path_factory.mktemp("json") / "json_values"
    files = [sources.LIBRARY / "json.cpp", Path(__file__).parent / "json_values.cpp"]
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", *SANITIZED, f"-I{sources.LIBRARY}"]
    subprocess.run(["g++", *flags, *files, "-o", program], check=True)

    def lines(texts: list[bytes]) -> list[str]:
        given = b"".join(len(text).to_bytes(8, "little") + text for text in texts)
        done = subprocess.run([program], input=given, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().splitlines()

    return lines


def refuse(constant: str):
    raise ValueError(constant)


def depth_of(value) -> int:
    if isinstance(value, Pairs):
        return 1 + max((depth_of(item) for _, item in value), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def expected(text: bytes) -> str:
    """The line of a text, by Python's json."""
    try:
        value = json.loads(
            text.decode(), object_pairs_hook=Pairs, parse_constant=refuse, parse_int=Number, parse_float=Number
        )
        line = described(value)
    except (ValueError, RecursionError):  # no JSON; UnicodeEncodeError: lone surrogates
        return "refused"
    return line if depth_of(value) <= MOST_NESTED else "refused"


def described(value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "n", True: "t", False: "f"}[value]
    if isinstance(value, Number):
        is_integer = value.lstrip("-").isdigit()
        number = float(value) + 0.0 if is_integer else float(value)  # no -0 of an integer
        whole = f"i{int(value)}" if is_integer and len(value) < 99 and -(2**63) <= int(value) < 2**63 - 1 else ""
        kind = "e" if number in (float("inf"), -float("inf")) else "d"
        return kind + struct.pack(">d", number).hex() + whole
    if isinstance(value, str):
        return "s" + value.encode().hex()
    if isinstance(value, Pairs):
        last = dict(value)
        items = [
            f" k{key.encode().hex()} {described(item)} {'' if chr(0) in key else described(last[key])}"
            for key, item in value
        ]
        return f"{{{len(value)}{''.join(items)}}}"
    return f"[{len(value)}{''.join(f' {described(item)}' for item in value)}]"


def compare(read, texts: list[bytes]) -> int:
    """How many texts are JSON."""
    lines = read(texts)
    assert len(lines) == len(texts)
    wrong = [(text[:200], line[:200]) for text, line in zip(texts, lines, strict=True) if line != expected(text)]
    assert not wrong, wrong[:3]
    return sum(line != "refused" for line in lines)


@pytest.mark.long
def test_tables(read):
    valid = [text.encode("utf-8", "surrogatepass") for text in VALID]
    assert compare(read, valid) == len(valid)
    assert compare(read, [f"[{text},{text}]".encode() for text in NUMBERS]) == len(NUMBERS)
    assert compare(read, [text.encode() for text in DAMAGED]) == 0
    assert set(read(REFUSED)) == {"refused"}


def drawn(random: random.Random, nested: int = 0) -> str:
    """A document, in some of the ways to write it."""
    space = random.choice(("", "", " ", "\n\t "))
    kind = random.choice(("list", "object", "number", "text", "word")) if nested < 5 else "number"
    if kind == "word":
        return space + random.choice(("null", "true", "false"))
    if kind == "number":
        return space + number(random)
    if kind == "text":
        return space + text(random)
    count = random.choice((0, 1, 2, 5))
    if kind == "list":
        return f"[{space}{','.join(drawn(random, nested + 1) + space for _ in range(count))}]"
    pairs = (f"{space}{text(random)}{space}:{drawn(random, nested + 1)}{space}" for _ in range(count))
    return f"{{{space}{','.join(pairs)}}}"


def number(random: random.Random) -> str:
    kind = random.randrange(5)
    if kind == 0:
        return str(random.randrange(-(10 ** random.choice((1, 3, 17, 21))), 10 ** random.choice((1, 3, 17, 21))))
    if kind == 1:  # a float32, as a file has it
        return repr(struct.unpack("<f", struct.pack("<I", random.randrange(0x7F800000)))[0])
    double = struct.unpack("<d", struct.pack("<Q", random.randrange(0x7FF0000000000000)))[0]
    if kind == 2:
        return repr(-double)
    if kind == 3:  # next to the middle of two doubles
        return random.choice((f"{double:.{random.randrange(17, 40)}e}", middle(double)))
    digits = "".join(random.choice("0123456789") for _ in range(random.choice((1, 5, 20, 400))))
    first, sign = random.choice(("-1", "1", "21")), random.choice(("", "-", "+"))
    return f"{first}.{digits}{random.choice('eE')}{sign}{random.choice((1, 30, 300, 330))}"


def middle(double: float) -> str:
    """All digits of the middle between a double and the next, or a bit more or less."""
    bits = struct.unpack("<Q", struct.pack("<d", double))[0]
    significand, power = (bits & (1 << 52) - 1) + (1 << 52) * (bits >> 52 > 0), max(bits >> 52, 1) - 1076
    numerator = 2 * (2 * significand + 1)
    whole = numerator << power if power > 0 else numerator * 5**-power
    text = f"{whole}e{min(power, 0)}"
    mantissa, exponent = text.split("e")
    return random.choice((text, f"{mantissa}01e{int(exponent) - 2}", f"{int(mantissa) - 1}99e{int(exponent) - 2}"))


def text(random: random.Random) -> str:
    characters = '"\\/\b\f\n\r\t\0\x1f aAbBk0é€𝄞\U0010ffff\ud7ff\ue000'
    drawn = "".join(random.choice(characters) for _ in range(random.choice((0, 1, 1, 4, 20))))
    written = json.dumps(drawn, ensure_ascii=random.random() < 0.5)
    return written.replace("/", "\\/") if random.random() < 0.5 else written


def damaged(random: random.Random, whole: bytes) -> bytes:
    content = bytearray(whole or b"0")
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(content) + 1)
        kind = random.randrange(5)
        if kind == 0:
            del content[at : at + random.choice((1, 1, 5))]
        elif kind == 1:
            content[at:at] = random.choice(
                (b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"0", b"-", b".", b"e", b" ", b"\0")
            )
        elif kind == 2 and at < len(content):
            content[at] ^= 1 << random.randrange(8)
        elif kind == 3:
            content[at:at] = random.choice(
                (b"\\u", b"\\ud83d", b"\xed\xa0\x80", b"\xf0\x9f", b"null", b"1e5", b"//", random.randbytes(3))
            )
        else:
            content[at:at] = content[: random.randrange(9)]
    return bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_documents(read, seed):
    draw = random.Random(seed)
    whole = [drawn(draw).encode("utf-8", "surrogatepass") for _ in range(3000)]
    assert compare(read, whole) == len(whole)
    broken = [damaged(draw, draw.choice(whole)) for _ in range(10_000)]
    assert 1000 < compare(read, broken) < 7000
