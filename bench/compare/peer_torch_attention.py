#!/usr/bin/env python3
"""peer_torch_attention.py - torch's side of attention.py: scaled_dot_product_attention, and the
same as two products and a softmax. K and V lie head by head; a group's queries are rows of one
product, so that nothing is copied for them."""
import peers


class Peer:
    def open(self, heads, kv_heads, width, dtype, tokens, layers, queries, threads, fused):
        try:
            import torch
        except ImportError as error:
            raise peers.Skipped("the package torch is not installed") from error
        torch.set_num_threads(threads)
        kind = getattr(torch, {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype])
        torch.manual_seed(1)
        self.torch, self.fused, self.scale = torch, fused, width ** -0.5
        rows = heads // kv_heads * queries
        self.q = (torch.rand(1, kv_heads, rows, width) * 2 - 1).to(kind)
        self.kv = [[(torch.rand(1, kv_heads, tokens, width) * 2 - 1).to(kind) for _ in range(2)]
                   for _ in range(layers)]
        return {"system": torch.__version__}

    def attend(self, passes):
        torch = self.torch
        with torch.inference_mode(), peers.Stopwatch() as watch:
            for _ in range(passes):
                for k, v in self.kv:
                    if self.fused:
                        torch.nn.functional.scaled_dot_product_attention(self.q, k, v)
                    else:
                        scores = torch.matmul(self.q * self.scale, k.transpose(2, 3))
                        torch.matmul(torch.softmax(scores, -1), v)
        return watch.times()


if __name__ == "__main__":
    peer = Peer()
    peers.serve({"open": peer.open, "attend": peer.attend})
