#!/usr/bin/env python3
"""make_gguf_type.py - a GGUF file with its matrices in another type, to measure that type.

    make_gguf_type.py IN.gguf OUT.gguf q8_0|q4_0|q4_1|q5_0|q5_1|f16|bf16|f32

Matrices are dequantized and quantized again by the gguf package; vectors and metadata stay. Needs gguf.
"""
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize


def copy_metadata(reader, writer):
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)


def main():
    source, target, name = sys.argv[1:4]
    kind = GGMLQuantizationType[name.upper()]
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    copy_metadata(reader, writer)
    for t in reader.tensors:
        if len(t.shape) < 2:
            writer.add_tensor(t.name, np.array(t.data), raw_dtype=t.tensor_type)
            continue
        values = dequantize(t.data, t.tensor_type)
        writer.add_tensor(t.name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
