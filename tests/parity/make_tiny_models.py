#!/usr/bin/env python3
"""make_tiny_models.py - random models of a few ten thousand weights, and what transformers says.

    make_tiny_models.py write DIR    write every model into DIR (tests/data/tiny)
    make_tiny_models.py check DIR    make them again elsewhere, and compare

Needs torch, transformers, safetensors, gguf and numpy; the tests themselves need none of them. Each
folder has config.json as published models of its kind have it, weights, and

    golden.json    cases: tokens, positions, options; the file and rows of their logits
    logits.npy       float32 [rows][vocabulary]: of transformers in float32, weights as stored

and, where GGUF files of the kind exist, model.gguf with the same weights. Numbers come from NumPy's
generator, seeded with names; weights are about as large as keeps activations of the size of one.
"""
import copy
import json
import math
import pathlib
import sys
import tempfile
import zlib

import gguf
import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

N_TOKENS = 200  # more than a chunk of the forward
POSITIONS = [0, 1, 2, 15, 63, 64, 100, 127, 128, 129, 150, 199]
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
         "rms_norm_eps": 1e-5, "torch_dtype": "float16"}
SMALL = {"hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "vocab_size": 131,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}

MODELS = {
    # Grouped heads that are wider than d_model / n_heads, an untied head, three shards.
    "llama": {"config": {**LLAMA, **SMALL, "num_attention_heads": 6, "num_key_value_heads": 2,
                         "head_dim": 48, "rope_theta": 10000.0, "rope_scaling": None,
                         "tie_word_embeddings": False, "eos_token_id": 2,
                         "num_hidden_layers": 2, "hidden_size": 42},
              "shards": 3, "gguf": True, "generation": {"eos_token_id": [2, 7]}},
    "llama_llama3": {"config": {**LLAMA, **SMALL, "rope_theta": 500.0, "head_dim": 16,
                                "tie_word_embeddings": True, "eos_token_id": [3, 4],
                                "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0,
                                                 "high_freq_factor": 4.0, "rope_type": "llama3",
                                                 "original_max_position_embeddings": 64}},
                     "gguf": True},
    # Biases everywhere, and the oldest way to write a scaling.
    "llama_linear": {"config": {**LLAMA, **SMALL, "attention_bias": True, "mlp_bias": True,
                                "num_key_value_heads": 4, "rope_theta": 10000.0,
                                "rope_scaling": {"type": "linear", "factor": 4.0}}},
    # The newest.
    "llama_yarn": {"config": {**LLAMA, **SMALL, "head_dim": 24,
                              "rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0,
                                                  "factor": 4.0, "beta_fast": 16.0,
                                                  "beta_slow": 2.0,
                                                  "original_max_position_embeddings": 64}}},
    "mistral": {"config": {**LLAMA, **SMALL, "model_type": "mistral", "rope_theta": 10000.0,
                           "architectures": ["MistralForCausalLM"], "sliding_window": None,
                           "head_dim": 10, "num_key_value_heads": 1}},
    # Published ones have biases of k of more than 100.
    "qwen2": {"config": {**LLAMA, **SMALL, "model_type": "qwen2", "rope_theta": 1000000.0,
                         "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False,
                         "sliding_window": 64, "max_window_layers": 1, "num_attention_heads": 5,
                         "num_key_value_heads": 1, "tie_word_embeddings": False,
                         "rms_norm_eps": 1e-6}, "gguf": True},
    "qwen2_tied": {"config": {**LLAMA, **SMALL, "model_type": "qwen2", "rope_theta": 10000.0,
                              "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True}},
    "opt": {"config": {"model_type": "opt", "architectures": ["OPTForCausalLM"],
                       "hidden_size": 48, "ffn_dim": 70, "num_hidden_layers": 2,
                       "num_attention_heads": 3, "max_position_embeddings": 256,
                       "vocab_size": 131, "word_embed_proj_dim": 48, "eos_token_id": 2,
                       "do_layer_norm_before": True, "activation_function": "relu",
                       "torch_dtype": "float16"}},
    "gpt2": {"config": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 40,
                        "n_layer": 2, "n_head": 5, "n_positions": 256, "n_inner": 100,
                        "vocab_size": 131, "activation_function": "gelu_new",
                        "eos_token_id": 5}, "gguf": True},
}


# ---- weights ----

def numbers(name, shape):
    """Norms near 1, biases of a tenth (but of k: up to 100), matrices by their inputs."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    part = name.split(":")[1]
    if "norm" in part or ".ln_" in part:
        draw = draw / 8 + (1 if part.endswith("weight") else 0)
    elif part.endswith("k_proj.bias") and name.startswith("qwen2:"):
        draw = draw * 40
    elif part.endswith("bias"):
        draw = draw / 8
    elif "embed" in part or "wte" in part or "wpe" in part or "lm_head" in part:
        draw = draw / 2
    else:
        draw = draw * 1.5 / math.sqrt(shape[0] if "c_" in part else shape[1])
    return draw.astype(np.float16)


def make_weights(name, config):
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**copy.deepcopy(config)))
    tied = getattr(model.config, "tie_word_embeddings", False)
    return {key: numbers(f"{name}:{key}", tuple(value.shape))
            for key, value in sorted(model.state_dict().items())
            if not (tied and key == "lm_head.weight") and not key.endswith(".attn.bias")}


def write_safetensors(folder, weights, n_shards):
    if n_shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    keys, places = sorted(weights), {}
    for i in range(n_shards):
        file = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        shard = {key: weights[key] for key in keys[i::n_shards]}
        save_file(shard, folder / file, metadata={"format": "pt"})
        places.update({key: file for key in shard})
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())},
             "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


# ---- GGUF, as llama.cpp's convert_hf_to_gguf.py writes it ----

GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm", "ln_1": "attn_norm",
    "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}


def gguf_name(name):
    stem, suffix = name.rsplit(".", 1)
    for start in ("model.layers.", "transformer.h."):
        if stem.startswith(start):
            layer, part = stem[len(start):].split(".", 1)
            return f"blk.{layer}.{GGUF_NAMES[part]}.{suffix}"
    return f"{GGUF_NAMES[stem]}.{suffix}"


def interleave(weight, n_heads):
    """Row i + half of a head goes behind row i: LlamaModel.permute() there."""
    return (weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, *weight.shape[1:])
            .swapaxes(1, 2).reshape(weight.shape))


def rope_dividers(config):
    """What Llama 3.1's converter makes of its scaling: a divider per frequency."""
    scaling, dim = config["rope_scaling"], config["head_dim"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    dividers = []
    for i in range(0, dim, 2):
        turns = (scaling["original_max_position_embeddings"] * config["rope_theta"] ** (-i / dim)
                 / (2 * math.pi))
        smooth = min(max((turns - low) / (high - low), 0), 1)
        dividers.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(dividers, dtype=np.float32)


def write_gguf(folder, config, weights):
    kind = config["model_type"]
    gpt2 = kind == "gpt2"
    heads = config["n_head" if gpt2 else "num_attention_heads"]
    kv_heads = heads if gpt2 else config["num_key_value_heads"]
    width = config["n_embd" if gpt2 else "hidden_size"]
    writer = gguf.GGUFWriter(folder / "model.gguf", kind)
    writer.add_block_count(config["n_layer" if gpt2 else "num_hidden_layers"])
    writer.add_context_length(config["n_positions" if gpt2 else "max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(config["n_inner" if gpt2 else "intermediate_size"])
    writer.add_head_count(heads)
    eos = config.get("eos_token_id")
    if eos is not None:
        writer.add_eos_token_id(eos[0] if isinstance(eos, list) else eos)
    if gpt2:
        writer.add_layer_norm_eps(1e-5)
    else:
        dim = config.get("head_dim", width // heads)
        writer.add_head_count_kv(kv_heads)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_theta"])
        writer.add_rope_dimension_count(dim)
        if "head_dim" in config:
            writer.add_key_length(dim)
            writer.add_value_length(dim)
        if config.get("rope_scaling"):
            writer.add_tensor("rope_freqs.weight", rope_dividers(config))
    for name, weight in weights.items():
        if gpt2 and ".c_" in name and name.endswith("weight"):
            weight = weight.T
        if kind == "llama" and "q_proj" in name:
            weight = interleave(weight, heads)
        if kind == "llama" and "k_proj" in name:
            weight = interleave(weight, kv_heads)
        if weight.ndim == 1:
            weight = weight.astype(np.float32)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- expected logits ----

def tokens_of(name, n, n_vocab):
    draw = np.random.default_rng(zlib.crc32(f"{name} tokens".encode()))
    return draw.integers(0, n_vocab, n).tolist()


@torch.no_grad()
def logits_of(folder, tokens, positions, **changes):
    config = transformers.AutoConfig.from_pretrained(folder)
    for key, value in changes.items():
        setattr(config, key, value)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager").eval()
    return model(torch.tensor([tokens])).logits[0, positions].numpy()


def rotate(x, positions, theta):
    """x [heads][tokens][dim] in float64."""
    half = x.shape[-1] // 2
    freqs = theta ** (-np.arange(half) / half)
    angles = positions[:, None] * freqs
    cosine, sine = np.cos(angles), np.sin(angles)
    low, high = x[..., :half], x[..., half:]
    return np.concatenate([low * cosine - high * sine, high * cosine + low * sine], axis=-1)


def rms_norm(x, weight, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def attend_shifted(q, k, v, theta, window, sinks, page):
    """Every token by itself: the keys that it sees, rotated to where they would be if the text
    between sinks and window had never been; queries at the end of that."""
    group = q.shape[0] // k.shape[0]
    out = np.zeros((q.shape[1], q.shape[0], v.shape[-1]))
    for p in range(q.shape[1]):
        first = max(p - window + 1, 0) // page * page
        stop = min(-(-sinks // page) * page, first)
        seen = np.concatenate([np.arange(stop), np.arange(first, p + 1)])
        places = np.arange(len(seen)).astype(np.float64)
        keys = rotate(k[:, seen], places, theta)
        query = rotate(q[:, p:p + 1], places[-1:], theta)[:, 0]
        for h in range(q.shape[0]):
            scores = keys[h // group] @ query[h] / math.sqrt(q.shape[-1])
            mass = np.exp(scores - scores.max())
            out[p, h] = mass / mass.sum() @ v[h // group, seen]
    return out.reshape(q.shape[1], -1)


def shifted_logits(config, weights, tokens, positions, window, sinks, page):
    """A Llama whose positions are shifted, by plain loops in float64."""
    w = {key: value.astype(np.float64) for key, value in weights.items()}
    dim, theta = config["head_dim"], config["rope_theta"]
    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        y = rms_norm(x, w[layer + "input_layernorm.weight"], config["rms_norm_eps"])
        q, k, v = ((y @ w[f"{layer}self_attn.{part}_proj.weight"].T)
                   .reshape(len(tokens), -1, dim).swapaxes(0, 1) for part in "qkv")
        x = x + (attend_shifted(q, k, v, theta, window, sinks, page)
                 @ w[layer + "self_attn.o_proj.weight"].T)
        y = rms_norm(x, w[layer + "post_attention_layernorm.weight"], config["rms_norm_eps"])
        gate = y @ w[layer + "mlp.gate_proj.weight"].T
        up = y @ w[layer + "mlp.up_proj.weight"].T
        x = x + gate / (1 + np.exp(-gate)) * up @ w[layer + "mlp.down_proj.weight"].T
    y = rms_norm(x, w["model.norm.weight"], config["rms_norm_eps"])
    return (y @ w["lm_head.weight"].T)[positions].astype(np.float32)


def write_expected(folder, name, config, weights):
    n_vocab = config["vocab_size"]
    tokens = tokens_of(name, N_TOKENS, n_vocab)
    cases = [{"name": "plain", "tokens": tokens, "positions": POSITIONS}]
    rows = [logits_of(folder, tokens, POSITIONS)]
    if name == "llama":
        long = tokens_of(f"{name} yarn", 400, n_vocab)
        at = [0, 100, 255, 256, 300, 399]
        trained = config["max_position_embeddings"]
        rows.append(logits_of(folder, long, at, rope_parameters={
            "rope_type": "yarn", "rope_theta": config["rope_theta"], "factor": 640 / trained,
            "original_max_position_embeddings": trained}))
        cases.append({"name": "yarn", "tokens": long, "positions": at, "n_ctx": 640})
        shift = {"window": 70, "sinks": 5, "page_tokens": 16}
        rows.append(shifted_logits(config, weights, long, at, 70, 5, 16))
        cases.append({"name": "shift", "tokens": long, "positions": at, **shift})
    first = 0
    for case, part in zip(cases, rows):
        case["first_row"] = first
        first += len(part)
    np.save(folder / "logits.npy", np.concatenate(rows))
    text = ",\n ".join(json.dumps(case) for case in cases)
    (folder / "golden.json").write_text(f'{{"cases": [\n {text}]}}\n')


# ---- all of it ----

def write_all(root):
    for name, plan in MODELS.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        config = plan["config"]
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if "generation" in plan:
            (folder / "generation_config.json").write_text(json.dumps(plan["generation"]) + "\n")
        weights = make_weights(name, config)
        write_safetensors(folder, weights, plan.get("shards", 1))
        if plan.get("gguf"):
            write_gguf(folder, config, weights)
        write_expected(folder, name, config, weights)
        print(name, sum(w.size for w in weights.values()), "weights")


def compare(made, kept):
    """Logits may differ in their last bits between versions of torch; nothing else may."""
    good = True
    for path in sorted(p for p in made.rglob("*") if p.is_file()):
        other = kept / path.relative_to(made)
        same = other.is_file() and path.read_bytes() == other.read_bytes()
        if not same and path.suffix == ".npy" and other.is_file():
            a, b = np.load(path), np.load(other)
            same = a.shape == b.shape and bool(np.all(np.abs(a - b) <= 2e-5 * np.abs(a).max()))
        if not same:
            print(f"{other}: differs from what {sys.argv[0]} makes")
            good = False
    return good


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "check"):
        sys.exit(__doc__)
    transformers.logging.set_verbosity_error()
    kept = pathlib.Path(sys.argv[2])
    if sys.argv[1] == "write":
        write_all(kept)
        return
    with tempfile.TemporaryDirectory() as made:
        write_all(pathlib.Path(made))
        if not compare(pathlib.Path(made), kept):
            sys.exit(1)
    print("equal")


if __name__ == "__main__":
    main()
