#!/usr/bin/env python3
"""peer_ggml.py - ggml's side of attention.py: the graphs that llama.cpp makes of attention,
computed by the libraries that the package llama-cpp-python brings along.

KV lies as llama.cpp keeps it: K (and V with flash attention) [token][head][width], V without it
[head][width][token]."""
import ctypes
import pathlib

import peers

TYPES = {"f32": 0, "f16": 1, "bf16": 30}
BYTES = {"f32": 4, "f16": 2, "bf16": 2}
WORK_BYTES = 64 << 20  # for graphs, and what computing them takes


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p),
                ("no_alloc", ctypes.c_bool)]


def load():
    try:
        import llama_cpp
    except ImportError as error:
        raise peers.Skipped("the package llama-cpp-python is not installed") from error
    folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
    base = ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"))
    pointer, real, size = ctypes.c_void_p, ctypes.c_float, ctypes.c_size_t
    whole = ctypes.c_int64
    for library, name, result, arguments in (
            (base, "ggml_init", pointer, [InitParams]),
            (base, "ggml_free", None, [pointer]),
            (base, "ggml_new_tensor_4d", pointer, [pointer, ctypes.c_int] + 4 * [whole]),
            (base, "ggml_view_3d", pointer, 2 * [pointer] + 3 * [whole] + 3 * [size]),
            (base, "ggml_get_data", pointer, [pointer]),
            (base, "ggml_nbytes", size, [pointer]),
            (base, "ggml_mul_mat", pointer, 3 * [pointer]),
            (base, "ggml_soft_max_ext", pointer, 3 * [pointer] + 2 * [real]),
            (base, "ggml_flash_attn_ext", pointer, 5 * [pointer] + 3 * [real]),
            (base, "ggml_new_graph", pointer, [pointer]),
            (base, "ggml_build_forward_expand", None, 2 * [pointer]),
            (cpu, "ggml_graph_compute_with_ctx", ctypes.c_int, 2 * [pointer] + [ctypes.c_int])):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
        setattr(load, name, function)
    return load


class Peer:
    def __init__(self):
        self.memory = None

    def fill(self, tensor, dtype):
        """Random numbers in [-1, 1)."""
        import numpy
        g, random = self.ggml, numpy.random.default_rng(1)
        n = g.ggml_nbytes(tensor)
        values = random.random(n // BYTES[dtype], dtype=numpy.float32) * 2 - 1
        if dtype == "bf16":
            values = (values.view(numpy.uint32) >> 16).astype(numpy.uint16)
        elif dtype == "f16":
            values = values.astype(numpy.float16)
        ctypes.memmove(g.ggml_get_data(tensor), values.ctypes.data, n)

    def tensor(self, dtype, *shape):
        new = self.ggml.ggml_new_tensor_4d(self.memory, TYPES[dtype], *shape,
                                           *[1] * (4 - len(shape)))
        self.fill(new, dtype)
        return new

    def open(self, heads, kv_heads, width, dtype, tokens, layers, queries, threads, flash):
        self.ggml = g = load()
        if self.memory:
            g.ggml_free(self.memory)
        row = kv_heads * width
        plane = tokens * row * BYTES[dtype]
        self.memory = g.ggml_init(InitParams(2 * layers * plane + WORK_BYTES, None, False))
        self.threads, self.flash, self.scale = threads, flash, width ** -0.5
        self.q = self.tensor("f32", width, queries, heads)
        e, views = BYTES[dtype], []
        for _ in range(layers):
            k = self.tensor(dtype, row, tokens)
            k = g.ggml_view_3d(self.memory, k, width, tokens, kv_heads, row * e, width * e, 0)
            if flash:
                v = self.tensor(dtype, row, tokens)
                v = g.ggml_view_3d(self.memory, v, width, tokens, kv_heads, row * e, width * e, 0)
            else:
                v = self.tensor(dtype, tokens, row)
                v = g.ggml_view_3d(self.memory, v, tokens, width, kv_heads, tokens * e,
                                   tokens * width * e, 0)
            views.append((k, v))
        self.views = views
        return {}

    def node(self, context, k, v):
        g = self.ggml
        if self.flash:
            return g.ggml_flash_attn_ext(context, self.q, k, v, None, self.scale, 0, 0)
        scores = g.ggml_mul_mat(context, k, self.q)
        return g.ggml_mul_mat(context, v, g.ggml_soft_max_ext(context, scores, None, self.scale, 0))

    def attend(self, passes):
        """All layers of all passes, a graph of its own for each pass: as a token has."""
        g, cpu, wall = self.ggml, 0, 0
        for _ in range(passes):
            context = g.ggml_init(InitParams(WORK_BYTES, None, False))
            graph = g.ggml_new_graph(context)
            for k, v in self.views:
                g.ggml_build_forward_expand(graph, self.node(context, k, v))
            with peers.Stopwatch() as watch:
                status = g.ggml_graph_compute_with_ctx(context, graph, self.threads)
            g.ggml_free(context)
            if status:
                raise RuntimeError(f"ggml_graph_compute_with_ctx: status {status}")
            wall += watch.times()["seconds"]
            cpu += watch.times()["cpu_seconds"]
        return {"seconds": wall, "cpu_seconds": cpu}


if __name__ == "__main__":
    peer = Peer()
    peers.serve({"open": peer.open, "attend": peer.attend})
