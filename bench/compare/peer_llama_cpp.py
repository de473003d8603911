#!/usr/bin/env python3
"""peer_llama_cpp.py - llama.cpp's side of models.py, through llama-cpp-python's C interface: KV in
f16, with flash attention or without."""
import ctypes
import pathlib
import struct
import sys

import peers

SEED_TOKENS = 64  # that are computed, for longer KV to be made of
LOG_LEVEL_ERROR = 4  # above it: the line before goes on


class Peer:
    def __init__(self):
        try:
            import llama_cpp
        except ImportError as error:
            raise peers.Skipped(f"llama-cpp-python: {error}") from error
        self.api = llama_cpp
        self.context = None
        self.log = llama_cpp.llama_log_callback(self.write_log)
        llama_cpp.llama_log_set(self.log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()

    @staticmethod
    def write_log(level, text, unused):
        if level == LOG_LEVEL_ERROR:
            print(text.decode(errors="replace"), end="", file=sys.stderr)

    def open(self, path, threads, flash, context_tokens, sequences):
        """The weights are what the file has."""
        api = self.api
        if self.context:
            api.llama_free(self.context)
            api.llama_model_free(self.model)
        self.model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        if not self.model:
            raise peers.Skipped(f"cannot read {pathlib.Path(path).name}")
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max = context_tokens * sequences, sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = int(flash)
        params.no_perf = True
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            raise peers.Failed("llama_init_from_model")
        self.memory = api.llama_get_memory(self.context)
        self.n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.batch = api.llama_batch_init(params.n_batch, 0, 1)
        self.room = params.n_batch
        self.sequences = 0
        return {"system": api.llama_print_system_info().decode()}

    def run(self, rows):
        """rows: (token, position, sequence, whether its logits are wanted)"""
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
            self.batch.logits[i] = wanted
        status = self.api.llama_decode(self.context, self.batch)
        if status:
            raise peers.Failed(f"llama_decode: {status}")
        self.api.llama_synchronize(self.context)

    def token(self, i):
        return (i * 7919 + i * i % 31) % self.n_vocab

    def read(self, n, sequence):
        for at in range(0, n, self.room):
            end = min(at + self.room, n)
            self.run([(self.token(i), i, sequence, i == n - 1) for i in range(at, end)])

    def prefill(self, tokens):
        self.api.llama_memory_clear(self.memory, False)
        self.sequences = 0
        with peers.Stopwatch() as watch:
            self.read(tokens, 0)
        return {"work": tokens, **watch.times()}

    def plant(self, sequences, tokens):
        """KV of `tokens`: that of a short text, over and over."""
        self.api.llama_memory_clear(self.memory, False)
        self.sequences, self.depth = sequences, tokens
        if tokens <= SEED_TOKENS:
            for sequence in range(sequences):
                self.read(tokens, sequence)
            return
        self.read(SEED_TOKENS, 0)
        room = self.api.llama_state_seq_get_size(self.context, 0)
        state = (ctypes.c_uint8 * room)()
        self.api.llama_state_seq_get_data(self.context, state, room, 0)
        long = tiled(bytes(state), tokens)
        state = (ctypes.c_uint8 * len(long)).from_buffer_copy(long)
        for sequence in range(sequences):
            self.api.llama_memory_seq_rm(self.memory, sequence, -1, -1)
            if not self.api.llama_state_seq_set_data(self.context, state, len(long), sequence):
                raise peers.Failed("llama_state_seq_set_data")
            if self.api.llama_memory_seq_pos_max(self.memory, sequence) != tokens - 1:
                raise peers.Failed("the KV planted is not as long as wanted")

    def decode(self, tokens):
        with peers.Stopwatch() as watch:
            for i in range(tokens):
                self.run([(self.token(i + s), self.depth + i, s, True)
                          for s in range(self.sequences)])
        for sequence in range(self.sequences):
            self.api.llama_memory_seq_rm(self.memory, sequence, self.depth, -1)
        return {"work": tokens * self.sequences, **watch.times()}


# ---- a sequence's state, as llama.cpp's llama_kv_cache::state_write() has it -------------------


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values[0]

    def take_bytes(self, n):
        self.at += n
        return self.data[self.at - n:self.at]


def over_and_over(rows, n, row_bytes):
    return (rows * (n * row_bytes // len(rows) + 1))[:n * row_bytes]


def tiled(state, n):
    """The state of a longer text: positions 0 .. n - 1, rows repeated."""
    r = Reader(state)
    out = [r.take_bytes(8)]  # the form's mark, and which sequence it was
    n_streams, n_cells = r.take("I"), r.take("I")
    out.append(struct.pack("<II", n_streams, n))
    for cell in range(n_cells):
        if n_streams != 1 or (r.take("i"), r.take("I"), r.take("i")) != (cell, 1, 0):
            raise peers.Failed("a state of an unknown form")
    out += [struct.pack("<iIi", cell, 1, 0) for cell in range(n)]
    is_transposed, n_layers = r.take("I"), r.take("I")
    out.append(struct.pack("<II", is_transposed, n_layers))
    for kind in ("k", "v"):
        for _ in range(n_layers):
            dtype = r.take("i")
            if kind == "k" or not is_transposed:
                row_bytes = r.take("Q")
                rows = r.take_bytes(row_bytes * n_cells)
                out += [struct.pack("<iQ", dtype, row_bytes), over_and_over(rows, n, row_bytes)]
            else:
                element_bytes, width = r.take("I"), r.take("I")
                out.append(struct.pack("<iII", dtype, element_bytes, width))
                for _ in range(width):
                    rows = r.take_bytes(element_bytes * n_cells)
                    out.append(over_and_over(rows, n, element_bytes))
    if r.at != len(state):
        raise peers.Failed(f"a state of an unknown form: {len(state) - r.at} bytes more")
    return b"".join(out)


def main():
    try:
        peer = Peer()
    except peers.Skipped as reason:
        missing = reason

        def skip(**unused):
            raise missing
        peers.serve({"open": skip})
        return
    peers.serve({"open": peer.open, "prefill": peer.prefill, "plant": peer.plant,
                 "decode": peer.decode})


if __name__ == "__main__":
    main()
