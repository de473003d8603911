#!/usr/bin/env python3
"""shapes.py - GGUF files of random weights in the shapes that are compared, which kvpager and
llama.cpp both read: started by models.py in the peers' environment.

    shapes.py SHAPE DTYPE FILE      SHAPE: a JSON object, as models.py has them
"""
import json
import sys

import gguf
import numpy

TYPES = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16,
         "bf16": gguf.GGMLQuantizationType.BF16}


def gpt2_tensors(s):
    """name, shape [outputs, inputs] of matrices, [outputs] of vectors"""
    d = s["width"]
    yield "token_embd.weight", (s["vocab"], d)
    yield "position_embd.weight", (s["context"], d)
    yield "output_norm.weight", (d,)
    yield "output_norm.bias", (d,)
    for i in range(s["layers"]):
        for name, shape in (("attn_norm", (d,)), ("attn_qkv", (3 * d, d)), ("attn_output", (d, d)),
                            ("ffn_norm", (d,)), ("ffn_up", (s["inner"], d)),
                            ("ffn_down", (d, s["inner"]))):
            yield f"blk.{i}.{name}.weight", shape
            yield f"blk.{i}.{name}.bias", shape[:1]


def llama_tensors(s):
    d, kv = s["width"], s["width"] // s["heads"] * s["kv_heads"]
    yield "token_embd.weight", (s["vocab"], d)
    yield "output_norm.weight", (d,)
    for i in range(s["layers"]):
        for name, shape in (("attn_norm", (d,)), ("attn_q", (d, d)), ("attn_k", (kv, d)),
                            ("attn_v", (kv, d)), ("attn_output", (d, d)), ("ffn_norm", (d,)),
                            ("ffn_gate", (s["inner"], d)), ("ffn_up", (s["inner"], d)),
                            ("ffn_down", (d, s["inner"]))):
            yield f"blk.{i}.{name}.weight", shape


def is_matrix(name, shape):
    return len(shape) == 2 and name != "position_embd.weight"


def add_metadata(writer, s):
    writer.add_context_length(s["context"])
    writer.add_embedding_length(s["width"])
    writer.add_block_count(s["layers"])
    writer.add_feed_forward_length(s["inner"])
    writer.add_head_count(s["heads"])
    writer.add_head_count_kv(s["kv_heads"])
    writer.add_vocab_size(s["vocab"])
    writer.add_tokenizer_model("no_vocab")
    if s["arch"] == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(s["width"] // s["heads"])
        writer.add_rope_freq_base(100000.0)


def write(s, dtype, path):
    random = numpy.random.default_rng(1)
    writer = gguf.GGUFWriter(path, s["arch"])
    add_metadata(writer, s)
    for name, dims in (gpt2_tensors if s["arch"] == "gpt2" else llama_tensors)(s):
        values = random.standard_normal(dims, dtype=numpy.float32) * 0.02
        values += name.endswith("norm.weight")
        kind = TYPES[dtype] if is_matrix(name, dims) else TYPES["f32"]
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3])
