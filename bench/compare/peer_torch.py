#!/usr/bin/env python3
"""peer_torch.py - torch's side of models.py: GPT-2 and Llama of random weights as one writes them
by hand for speed: preallocated KV in the weights' dtype, fused q, k, v and gate, up; torch's own
scaled_dot_product_attention, without a mask where none is needed."""
import peers


class Peer:
    def __init__(self, torch):
        self.torch = torch
        self.rows = None

    def matrix(self, *shape):
        return (self.torch.randn(*shape) * 0.02).to(self.dtype)

    def vector(self, n):
        return self.torch.ones(n, dtype=self.dtype)

    def layer(self):
        s, d = self.shape, self.shape["width"]
        kv = s["kv_heads"] * self.head
        up = s["inner"] * (2 if s["arch"] == "llama" else 1)
        return {"norm1": self.vector(d), "norm2": self.vector(d), "qkv": self.matrix(d + 2 * kv, d),
                "out": self.matrix(d, d), "up": self.matrix(up, d),
                "down": self.matrix(d, s["inner"]), "bias": {
                    "qkv": self.vector(d + 2 * kv), "out": self.vector(d), "up": self.vector(up),
                    "down": self.vector(d)} if s["arch"] == "gpt2" else {}}

    def open(self, shape, dtype, threads, context_tokens, sequences):
        torch = self.torch
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        self.shape, self.dtype = shape, getattr(torch, {"f32": "float32", "f16": "float16",
                                                        "bf16": "bfloat16"}[dtype])
        self.head = shape["width"] // shape["heads"]
        self.layers = [self.layer() for _ in range(shape["layers"])]
        self.embedding = self.matrix(shape["vocab"], shape["width"])
        self.positions = self.matrix(shape["context"], shape["width"])
        self.norm = self.vector(shape["width"])
        # [layer][k, v]: [sequence, head, token, width]
        self.kv = torch.zeros(shape["layers"], 2, sequences, shape["kv_heads"], context_tokens,
                              self.head, dtype=self.dtype)
        angles = torch.outer(torch.arange(context_tokens).float(),
                             1e5 ** (-torch.arange(0, self.head, 2).float() / self.head))
        self.cos, self.sin = (torch.cat([f(angles)] * 2, -1).to(self.dtype)
                              for f in (torch.cos, torch.sin))
        return {"system": torch.__version__}

    def normalise(self, x, weight):
        if self.shape["arch"] == "gpt2":
            return self.torch.nn.functional.layer_norm(x, weight.shape, weight, weight, 1e-5)
        return self.torch.nn.functional.rms_norm(x, weight.shape, weight, 1e-5)

    def rotate(self, x, at, n):
        if self.shape["arch"] == "gpt2":
            return x
        a, b = x.chunk(2, -1)
        turned = self.torch.cat((-b, a), -1)
        return x * self.cos[at:at + n] + turned * self.sin[at:at + n]

    def attend(self, x, layer, cache, at):
        functional, s = self.torch.nn.functional, self.shape
        batch, n, d = x.shape
        kv = s["kv_heads"] * self.head
        qkv = functional.linear(x, layer["qkv"], layer["bias"].get("qkv"))
        q, k, v = (part.view(batch, n, -1, self.head).transpose(1, 2)
                   for part in qkv.split((d, kv, kv), -1))
        cache[0, :batch, :, at:at + n] = self.rotate(k, at, n)
        cache[1, :batch, :, at:at + n] = v
        k, v = cache[0, :batch, :, :at + n], cache[1, :batch, :, :at + n]
        q, group = self.rotate(q, at, n), s["heads"] // s["kv_heads"]
        if n == 1 and group > 1:  # a group's queries as rows: nothing is copied
            q = q.view(batch, s["kv_heads"], group, self.head)
            out = functional.scaled_dot_product_attention(q, k, v).view(batch, s["heads"], 1, -1)
        else:
            k, v = (t.repeat_interleave(group, 1) if group > 1 else t for t in (k, v))
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=n > 1)
        out = out.transpose(1, 2).reshape(batch, n, d)
        return functional.linear(out, layer["out"], layer["bias"].get("out"))

    def mlp(self, x, layer):
        functional, bias = self.torch.nn.functional, layer["bias"]
        up = functional.linear(x, layer["up"], bias.get("up"))
        if self.shape["arch"] == "gpt2":
            return functional.linear(functional.gelu(up, approximate="tanh"), layer["down"],
                                     bias["down"])
        gate, up = up.chunk(2, -1)
        return functional.linear(functional.silu(gate) * up, layer["down"])

    def forward(self, tokens, at):
        """tokens [sequence, token], of which the last ones' logits are computed"""
        x = self.embedding[tokens]
        if self.shape["arch"] == "gpt2":
            x = x + self.positions[at:at + tokens.shape[1]]
        for layer, cache in zip(self.layers, self.kv):
            x = x + self.attend(self.normalise(x, layer["norm1"]), layer, cache, at)
            x = x + self.mlp(self.normalise(x, layer["norm2"]), layer)
        x = self.normalise(x[:, -1], self.norm)
        return self.torch.nn.functional.linear(x, self.embedding)

    def prefill(self, tokens):
        with self.torch.inference_mode(), peers.Stopwatch() as watch:
            self.forward(self.torch.arange(tokens)[None] % self.shape["vocab"], 0)
        return {"work": tokens, **watch.times()}

    def plant(self, sequences, tokens):
        """What is in the KV does not matter to the time, unless it is zeros of memory untouched."""
        self.kv.normal_()
        self.sequences, self.depth = sequences, tokens

    def decode(self, tokens):
        with self.torch.inference_mode(), peers.Stopwatch() as watch:
            for i in range(tokens):
                self.forward(self.torch.full((self.sequences, 1), i), self.depth + i)
        return {"work": tokens * self.sequences, **watch.times()}


def main():
    try:
        import torch
    except ImportError as error:
        missing = peers.Skipped(f"torch: {error}")

        def skip(**unused):
            raise missing
        peers.serve({"open": skip})
        return
    peer = Peer(torch)
    peers.serve({"open": peer.open, "prefill": peer.prefill, "plant": peer.plant,
                 "decode": peer.decode})


if __name__ == "__main__":
    main()
