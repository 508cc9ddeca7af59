"""ChatGLM3's `tokenizer.model` as a fast tokenizer, held against `sentencepiece` before it is handed on.

    pieces, scores ─► BPE: every split of a piece into two pieces is a merge, ordered by the piece's score
    [MASK] [gMASK] [sMASK] sop eop, four roles ─► ids behind the pieces, in the vocabulary but reached by no merge
    text ─► "▁" + text with "▁" for spaces ─► BPE with bytes for what it lacks ─► [gMASK] sop ...

The nine extra tokens are no added tokens: those are cut out of any text, and `sop` and `eop` would tear "philosophy"
and "people" apart. For the same reason `split_special_tokens` is on: `</s>` typed by a user is four signs, as it was.
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


EXTRA_TOKENS = (
    "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
)  # fmt: skip
PREFIX = ("[gMASK]", "sop")
# A chat's turn ends where the next one would begin.
TURN_ENDS = ("<|user|>", "<|observation|>")
SAMPLES = (
    "", " ", "  ", "   x", "x   ", "\n", "\r\n", "a\tb", "▁", "a▁b", "I'm fine, thank you.", "Not again?!",
    "The speaker's emotion is joy", "-1.2", "3", " 3", "3.0", "今天天气很好，我很高兴。", "说话人的情绪是：愤怒",
    "情感值 -0.8", "Ａｂｃ①ﬁ½", "\u3000\u00a0\u200b\ufeff", "e\u0301 ä", "😀👍🏽 🇨🇳", "\u0001\x7f", "нет, спасибо",
    "philosophy people sop eop stop hope", "<s></s><unk><pad><0x0A>", "".join(EXTRA_TOKENS), "<|user|>\n hello",
)  # fmt: skip


def read_pieces(path: Path) -> Any:
    """The model file as a `sentencepiece.SentencePieceProcessor`.

    Raises:
        ImportError: `sentencepiece` is not installed.
        ValueError: there is no such file, or it is of another kind.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "Converting the tokenizer needs: pip install 'egmf[conversion]' (or pip install sentencepiece)"
        ) from error
    if not path.is_file():
        raise ValueError(f"There is no {path}. Fetch it beside the weights, or convert `--only weights`.")
    content = path.read_bytes()
    if content.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` beside it.")
    try:
        if not content:
            raise RuntimeError("it is empty")
        pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
        count = pieces.get_piece_size()
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{path} is no SentencePiece model, as ChatGLM3's is ({error}).") from error
    known = {pieces.id_to_piece(i) for i in range(count)}
    if known & set(EXTRA_TOKENS):
        raise ValueError(f"{path} holds {sorted(known & set(EXTRA_TOKENS))} as pieces; ChatGLM3 adds them behind.")
    if (pieces.unk_id(), pieces.eos_id()) != (0, 2):
        raise ValueError(f"{path} has <unk> {pieces.unk_id()} and </s> {pieces.eos_id()}; ChatGLM3 has 0 and 2.")
    return pieces


def extra_ids(pieces: Any) -> dict[str, int]:
    """Ids of the nine tokens behind the pieces."""
    return {token: pieces.get_piece_size() + i for i, token in enumerate(EXTRA_TOKENS)}


def build_tokenizer(pieces: Any) -> "PreTrainedTokenizerFast":
    """The fast tokenizer; left padding with `<unk>`, `[gMASK] sop` in front of every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    count = pieces.get_piece_size()
    vocabulary = {pieces.id_to_piece(i): i for i in range(count)}
    other = (pieces.is_unknown, pieces.is_control, pieces.is_byte, pieces.is_unused)
    normal = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(count) if not any(test(i) for test in other)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(normal, key=normal.__getitem__, reverse=True)
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    extra = extra_ids(pieces)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary | extra, merges=merges, unk_token=pieces.id_to_piece(0), fuse_unk=True, byte_fallback=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    end = pieces.id_to_piece(pieces.eos_id())
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{' '.join(PREFIX)} $A",
        pair=f"{' '.join(PREFIX)} $A $B {end}",
        special_tokens=[*((token, extra[token]) for token in PREFIX), (end, pieces.eos_id())],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=pieces.id_to_piece(0),
        pad_token=pieces.id_to_piece(0),
        eos_token=end,
        padding_side="left",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def sample_strings(pieces: Any, count: int = 2000, seed: int = 0) -> list[str]:
    """Strings to compare on: written ones, runs of pieces with and without spaces, and random characters."""
    rng = random.Random(seed)  # noqa: S311
    words = [pieces.id_to_piece(i).replace("▁", " ") for i in range(pieces.get_piece_size()) if not pieces.is_byte(i)]
    blocks = ((0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x4FF), (0x3000, 0x30FF), (0x4E00, 0x9FA5), (0x1F300, 0x1F64F))
    strings = [*SAMPLES]
    while len(strings) < count:
        kind, length = rng.randrange(3), rng.randint(1, 12)
        if kind == 2:
            strings.append("".join(chr(rng.randint(*rng.choice(blocks))) for _ in range(length)))
        else:
            strings.append(("", " ")[kind].join(rng.choice(words) for _ in range(length)))
    return strings


def check_tokenizer(tokenizer: "PreTrainedTokenizerFast", pieces: Any) -> int:
    """Compare ids, prefix and decoded text with `sentencepiece`; -> on how many strings.

    Raises:
        ValueError: any of them differs.
    """
    strings = sample_strings(pieces)
    prefix = [extra_ids(pieces)[token] for token in PREFIX]
    plain = tokenizer(strings, add_special_tokens=False)["input_ids"]
    begun = tokenizer(strings)["input_ids"]
    wrong = []
    for text, ids, whole, decoded in zip(strings, plain, begun, tokenizer.batch_decode(plain), strict=True):
        expected = pieces.encode(text)
        if ids != expected or whole != prefix + expected or decoded != pieces.decode(expected):
            wrong.append(text)
    if wrong:
        raise ValueError(
            f"The converted tokenizer differs from sentencepiece on {len(wrong)} of {len(strings)} strings, such as "
            f"{wrong[0]!r}: this tokenizer.model is not of ChatGLM3's kind (BPE, byte fallback, no normalization)."
        )
    facts = {
        "length": (len(tokenizer), pieces.get_piece_size() + len(EXTRA_TOKENS)),
        "padding_side": (tokenizer.padding_side, "left"),
        "pad_token_id": (tokenizer.pad_token_id, pieces.unk_id()),
        "eos_token_id": (tokenizer.eos_token_id, pieces.eos_id()),
    }
    for token, number in extra_ids(pieces).items():
        facts[token] = (tokenizer.convert_tokens_to_ids(token), number)
    for name, (found, expected) in facts.items():
        if found != expected:
            raise ValueError(f"The converted tokenizer has {name} {found!r}; it should be {expected!r}.")
    return len(strings)


def write_tokenizer(source: Path, folder: Path, vocab_size: int | None = None) -> int:
    """Write the tokenizer and what ends a generated text into a folder, load it again and check it.

    Args:
        source: folder with `tokenizer.model`.
        folder: where the files go.
        vocab_size: rows of the embedding matrix, if known; every id must lie below it.

    Returns:
        On how many strings it was found equal to `sentencepiece`.

    Raises:
        ImportError: `sentencepiece` is not installed.
        ValueError: the file is missing, of another kind, or came out different.
    """
    from transformers import AutoTokenizer, GenerationConfig

    pieces = read_pieces(source / "tokenizer.model")
    extra = extra_ids(pieces)
    if vocab_size is not None and max(extra.values()) >= vocab_size:
        raise ValueError(f"tokenizer.model needs {max(extra.values()) + 1} ids; the weights have {vocab_size}.")
    build_tokenizer(pieces).save_pretrained(folder)
    count = check_tokenizer(AutoTokenizer.from_pretrained(folder), pieces)
    ends = [pieces.eos_id(), *(extra[token] for token in TURN_ENDS)]
    GenerationConfig(eos_token_id=ends, pad_token_id=pieces.unk_id()).save_pretrained(folder)
    return count
