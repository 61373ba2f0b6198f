#!/usr/bin/env python3
"""Compares the tokenizer of a folder that nibble made with that of the GGUF file it came from.

    check_tokenizer.py FOLDER FILE.gguf      transformers' own GGUF reader is the reference
    check_tokenizer.py FOLDER FOLDER         two folders

Texts: prose, code, digits, many scripts, emoji, whitespace runs, special tokens, chats; plus
random strings with a fixed seed. Prints each difference; exit status 1 if there is one.

transformers' reading of GGUF is not always right; these give the reference what it leaves out:
  --digits  pre-tokenizer "smollm": llama.cpp takes each digit alone, transformers takes GPT-2's
  --nfc     Qwen's own tokenizer normalizes to NFC
  --prefix  SentencePiece and llama.cpp put a space also before text that starts with one
  --bos     llama.cpp begins with bos when a "llama-bpe" file does not say add_bos_token
  --words   compare encodings only: leave out vocabulary, decoding and chats (fillers such as
            [PAD1] stay out of a folder's vocabulary; transformers adds GPT-2's <|endoftext|>)
"""
import argparse
import random
import sys
from pathlib import Path

from tokenizers import normalizers, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer

TEXTS = [
    "", " ", "  ", "\n", "\n\n\n", "\t\t", "a", " a", "a ", "  a  b   c    ", "\r\n\r\n",
    " \n \n ",
    "The quick brown fox jumps over the lazy dog. It's 5 o'clock; we'll see, they'd've gone.",
    "IT'S HE'LL WE'VE I'M YOU'D don\u2019t", "ALL CAPS MiXeD cAsE snake_case camelCase kebab-case",
    "def f(x):\n    return x**2 + 3.14159e-10  # comment\n\n\tif x <= 0x7fff: pass\n",
    "#include <stdio.h>\nint main(void) { printf(\"%d\\n\", 1 << 31); return 0; }\n",
    "SELECT * FROM t WHERE a='b' AND c!=1;--", "https://example.org/a?b=c&d=%20#e foo@bar.com",
    "0 1 12 123 1234 12345 123456 1234567890 3.14 1,000,000 2026-01-01 "
    "\u0661\u0662\u0663 \u00bd \u2167",
    "caf\u00e9 cafe\u0301 na\u00efve \u00dcber stra\u00dfe \u0130stanbul \u01c5 \ufb01",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \u05e9\u05dc\u05d5\u05dd "
    "\u0645\u0631\u062d\u0628\u0627 \u4f60\u597d\u4e16\u754c \u3053\u3093\u306b\u3061\u306f "
    "\uc548\ub155 \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1fa\U0001f1f3 "
    "\u2764\ufe0f \u00a9\u2122",
    "\u00a0\u2003\u200b\u3000x\ufeff\u0000\u0001\u007f\u0085",
    "...!!!???---===###$$$%%%^^^&&&***((()))",
    "a\u0000b", "  leading", "trailing  ", "x" * 300, "ab " * 100, "$100 + \u20ac5 = \u00a3\u00a5",
    "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "<|im_start|> <|im_end|>x<|im_end|>",
    "<|im_start", "<repo_name>a/b<file_sep>c", "<s>x</s>", "[PAD5]", "<0x0A>", "\u2581x \u2581",
]
CHATS = [
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"},
     {"role": "assistant", "content": "2"}, {"role": "user", "content": "  Sure\n"}],
]


def random_texts(count):
    rng = random.Random(5)
    ranges = [(32, 127), (9, 14), (32, 33), (48, 58), (0xa0, 0x250), (0x370, 0x530),
              (0x590, 0x700), (0x900, 0x980), (0x2000, 0x2070), (0x2190, 0x2200),
              (0x3040, 0x3100), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0x1f300, 0x1f650)]
    for _ in range(count):
        picks = rng.choices(ranges, k=rng.randint(1, 4))
        yield "".join(chr(rng.randrange(*rng.choice(picks))) for _ in range(rng.randint(1, 60)))


def load(path):
    if path.suffix == ".gguf":
        return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    return AutoTokenizer.from_pretrained(str(path))


def each_digit_alone(tokenizer):
    """GGUF's pre-tokenizer "smollm": llama.cpp splits at \\p{N}, then by GPT-2's pattern."""
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("reference", type=Path)
    for option in ("--digits", "--nfc", "--prefix", "--bos", "--words"):
        parser.add_argument(option, action="store_true")
    args = parser.parse_args()
    config = AutoConfig.from_pretrained(str(args.folder))
    mine, reference = load(args.folder), load(args.reference)
    if args.digits:
        each_digit_alone(reference)
    if args.nfc:
        reference.backend_tokenizer.normalizer = normalizers.NFC()
    if args.prefix:
        reference.backend_tokenizer.pre_tokenizer = None
        reference.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    bos = [reference.bos_token_id] if args.bos else []
    compared = wrong = 0

    def compare(what, got, expected):
        nonlocal compared, wrong
        compared += 1
        if got != expected:
            wrong += 1
            print(f"{what!r}:\n  made      {got}\n  reference {expected}")

    for text in [*TEXTS, *random_texts(2000)]:
        ids = mine.encode(text)
        if "<|endoftext|>" in text and "<|endoftext|>" not in mine.get_vocab():
            continue
        compare(text, ids, bos + reference.encode(text))
        compare(text, mine.encode(text, add_special_tokens=False),
                reference.encode(text, add_special_tokens=False))
        if not args.words:
            compare(text, mine.decode(ids), reference.decode(ids))
    if not args.words and (mine.chat_template or reference.chat_template):
        for chat in CHATS:
            for prompt in (False, True):
                compare(chat, *(t.apply_chat_template(chat, add_generation_prompt=prompt,
                                                      return_dict=False)
                                for t in (mine, reference)))
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        compare(role, getattr(mine, role), getattr(reference, role))
    if not args.words:
        compare("vocabulary", mine.get_vocab(), reference.get_vocab())
    compare("rows for all tokens", len(mine) <= config.vocab_size, True)
    print(f"{type(config).__name__}, {type(mine).__name__}: {compared} compared, {wrong} differ")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
