#!/usr/bin/env python3
"""Reference for tokenizers and conversations: Hugging Face's tokenizers and transformers.

    tokenizers_chat.py [--write]

Compares what tests/data/tokenizer/ and tests/data/chat/ expect with it, or writes it. The
tokenizers themselves (KIND/tokenizer.json, small vocabularies trained on the demo's excerpt and the
texts below) are made only where they are missing.
Needs: tokenizers transformers jinja2 (PyPI).
"""
import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers import processors, trainers
from transformers import PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).parent.parent
DATA, CHAT = ROOT / "data" / "tokenizer", ROOT / "data" / "chat"
EXCERPT = ROOT.parent / "models" / "demo" / "excerpt.txt"

CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def cut(pattern):
    return pre.Sequence([pre.Split(Regex(pattern), "isolated"),
                         pre.ByteLevel(add_prefix_space=False, use_regex=False)])


def after(*cutters):
    return pre.Sequence([*cutters, pre.ByteLevel(add_prefix_space=False)])


WORDS = {
    "gpt2": pre.ByteLevel(add_prefix_space=False),
    "smollm": after(pre.Digits(individual_digits=True)),
    "qwen2": cut(CL100K % ""),
    "llama3": cut(CL100K % "{1,3}"),
}
# How a GGUF file of "smollm" is read: tokenizer_gguf.c says why.
GGUF_WORDS = after(pre.Split(Regex("[0-9]"), "isolated"))

SPECIAL = {
    "gpt2": ["<|endoftext|>"],
    "smollm": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
               "<|eot_id|>"],
}
PLAIN_ADDED = {"qwen2": ["<tool_call>", "</tool_call>"]}  # added, not special

TRAINING = [
    "I'll don't they've we'RE I'M She'D you'Ll it'S 'tis 'Twas ", "東京都の天気は晴れです。\n",
    "\r\n\r\n\tif (x):\r\n", "    return  12 + 345 * 6789\n\n", "naïve café e\u0301te\u0301 Zoë ",
    "👩\u200d👩\u200d👧 🙂🙂 ", "½ ² ٣٤ Ⅷ ", "/* --- === *** */ !!!\n",
    "user\nassistant\n<|user|>\n<|assistant|>\n",
]

# Letters and numbers of Unicode 15 to 17: PCRE2 may not know them, the tokenizers do.
NEW_CHARACTERS = [0x1C89, 0xA7DC, 0x1123F, 0x1E4EB, 0x2EE5D, 0x323AF, 0x10D40, 0x1CCF9, 0x1E5FA,
                  0x11DE0, 0x16FF6]
TEXTS = [
    "", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "a", " a", "  a", "a ", "a  ", "a\n", "a \n",
    "a\n\n b", "Hello, world!", "Hello  world   and    more", "  leading   and trailing  ",
    "\n\n  x\t", "\t\tx", "x\t\ty", " \t \n \t ", "I'll don't they've we'RE",
    "I'LL DON'T THEY'VE 'S 'Ss 'ſ 'ſx x'ſ", "''s 's's ' s 'l 'll 'lll 'VE've", "O'Reilly's cat's",
    "x'She y'Some z'They w'Read v'Very m'My l'LLike d'Do 'she 'some 'they 'read 'very 'my 'like 'do",
    "1", "12", "123", "1234", "12345678901234567890", " 1 12 123 1234", "  12", "\n\n12", "\n12\n",
    "a1b22c333d4444", "3.14159 0x1F 1e-9 $1,234.56 50% 1st", "½ ² ٣ Ⅷ ٣٤٥٦ ¾¾¾¾", "a½ b² 1½ 1²3",
    "  ½", "\n\n٣", "line\r\nline\r\n\r\nline\rline\r\r", "x \r\n y", "!\r\n!", "!!!\n\n\n???",
    "...\n...\r\n...", "-\n-\r-", " .\n .", "a\u2028b\u2029c\u0085d\u000be\u000cf",
    "\u3000東京\u3000", "東京都に行く。", "東京 tower 東京tower", "日本語1234テキスト", "naïve café",
    "nai\u0308ve cafe\u0301", "e\u0301", "\u0301", "a\u0301\u0316b", "a\u0316\u0301b",
    "\u0327\u0301c\u0327\u0301", "\u212b \u2126 \u1e9b\u0323 \uac00 \u1100\u1161\u11a8 \ufb01",
    "q\u0307\u0323 d\u0307\u0323 \u0344", "x\u0898\u0316y \U00011935\U00011930", "🙂", "🙂🙂",
    "👩\u200d👩\u200d👧", "👍🏽 🇩🇪", " 👩\u200d💻's", "\u200b", "a\u200bb", "\u200d\u200c", "\ufeffBOM",
    "\ue000\uf8ff\U0010fffd", "Привет, мир! Ελληνικά עברית العربية हिन्दी ไทย",
    "İstanbul ǅ ŉ ß ẞ ﬆ", "\u180e\u1680\u202f\u205f", "\u0000\u0001\u007f", "a\u0000b",
    "def f(x):\n\treturn x**2\n", "if (a && b) {\r\n    c->d = e[0];\r\n}\r\n",
    "<html><body class=\"x\">&amp;</body></html>", "https://example.org/a?b=c&d=e#f",
    "snake_case camelCase kebab-case", "a" * 50, " " * 50, "\n" * 20, "ab " * 20,
    "=" * 33 + "\n" * 5, "<|endoftext|>", "a<|endoftext|>b", "a <|endoftext|> b",
    "<|endoftext|><|endoftext|>", "<|endoftext", "<|im_start|>user\nhi<|im_end|>\n",
    "<|begin_of_text|>x<|eot_id|>", "<tool_call>\n{}\n</tool_call>",
    "\u00e9<tool_call>e\u0301<|im_end|>\u0301",
    "".join(f"a{chr(c)}b {chr(c)}  {chr(c)}1" for c in NEW_CHARACTERS),
    "The whale. Loomings. Call me Ishmael. Some years ago--never mind how long precisely",
]

# CHAT/NAME.jinja: vocabulary, tokens that begin and end a text.
TEMPLATES = {
    "chatml": ("smollm", "<|im_start|>", "<|im_end|>"),  # SmolLM2-Instruct's (Apache-2.0)
    "chatml_tools": ("qwen2", None, "<|im_end|>"),
    "chatml_assigned": ("qwen2", None, "<|endoftext|>"),
    "chatml_text": ("smollm", "<|endoftext|>", "<|im_end|>"),
    "llama3": ("llama3", "<|begin_of_text|>", "<|eot_id|>"),
    "llama3_dated": ("llama3", "<|begin_of_text|>", "<|eot_id|>"),
    "zephyr": ("gpt2", "<|endoftext|>", "<|endoftext|>"),
}
TURNS = ["Hello!", "  Who are you,\nI'd ask?  ", "\n\ncafe\u0301 12345\n"]
ANSWERS = ["Hi there", "I'm a model: 東京."]
SYSTEMS = [None, "You are a pirate.", " \nTwo\nlines. "]


def train(kind):
    t = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    t.pre_tokenizer = WORDS[kind]
    t.decoder = decoders.ByteLevel()
    if kind == "qwen2":
        t.normalizer = normalizers.NFC()
    words = trainers.BpeTrainer(vocab_size=1200, initial_alphabet=pre.ByteLevel.alphabet(),
                                special_tokens=[] if kind == "llama3" else SPECIAL[kind],
                                show_progress=False)
    t.train_from_iterator([EXCERPT.read_text()] + TRAINING * 12, words)
    if kind == "llama3":
        drop_merges(t, kind)
        t.add_special_tokens(SPECIAL[kind])
        begin = SPECIAL[kind][0]
        t.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{begin} $A", pair=f"{begin} $A {begin} $B",
                                          special_tokens=[(begin, t.token_to_id(begin))])])
    else:
        t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_tokens([AddedToken(x, normalized=False) for x in PLAIN_ADDED.get(kind, [])])
    return t


def drop_merges(t, kind):
    """Leave some words that no merge makes: ignore_merges must find them."""
    model = json.loads(t.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    t.model = models.BPE(vocab=model["vocab"], merges=[m for i, m in enumerate(merges) if i % 9],
                         ignore_merges=True)


def tokenizer(kind):
    path = DATA / kind / "tokenizer.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.loads(train(kind).to_str())
        path.write_text(json.dumps(text, ensure_ascii=False, separators=(",", ":")) + "\n")
    return Tokenizer.from_file(str(path))


def cases():
    result = {"texts": TEXTS}
    for kind in WORDS:
        t = tokenizer(kind)
        result[kind] = [t.encode(text, add_special_tokens=False).ids for text in TEXTS]
        result[kind + "_prefix"] = t.encode("").ids
    t = tokenizer("smollm")
    t.pre_tokenizer = GGUF_WORDS
    result["smollm_gguf"] = [t.encode(text, add_special_tokens=False).ids for text in TEXTS]
    return result


def conversation(t, system):
    """The ids up to every answer."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    result = []
    for i, user in enumerate(TURNS):
        messages.append({"role": "user", "content": user})
        result.append(t.apply_chat_template(messages, add_generation_prompt=True,
                                            return_dict=False))
        if i < len(ANSWERS):
            messages.append({"role": "assistant", "content": ANSWERS[i]})
    return result


def chats():
    result = []
    for name, (kind, bos, eos) in TEMPLATES.items():
        template = (CHAT / f"{name}.jinja").read_text()
        t = PreTrainedTokenizerFast(tokenizer_file=str(DATA / kind / "tokenizer.json"),
                                    bos_token=bos, eos_token=eos, chat_template=template)
        result.append({"name": name, "kind": kind, "bos_token": bos, "eos_token": eos,
                       "conversations": [conversation(t, system) for system in SYSTEMS]})
    return {"turns": TURNS, "answers": ANSWERS, "systems": SYSTEMS, "templates": result}


def main():
    same = True
    for path, data in ((DATA / "words.json", cases()), (CHAT / "cases.json", chats())):
        text = json.dumps(data, separators=(",", ":")) + "\n"
        if sys.argv[1:] == ["--write"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif path.read_text() != text:
            print(f"{path} is not what tokenizers and transformers make", file=sys.stderr)
            same = False
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
