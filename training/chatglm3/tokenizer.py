"""Conversion of ChatGLM3's `tokenizer.model` to a fast tokenizer, which is then compared with `sentencepiece`.

    pieces, scores ─► BPE: every split of a piece into two pieces is a merge, ordered by the piece's score
    [MASK] [gMASK] [sMASK] sop eop, four roles ─► ids after the pieces, in the vocabulary but reached by no merge
    text ─► "▁" + text with "▁" for spaces ─► BPE with bytes for unknown characters ─► [gMASK] sop ...

The nine extra tokens are not registered as added tokens, because those are matched anywhere in a text: `sop` and `eop`
would split "philosophy" and "people". For the same reason `split_special_tokens` is on: `</s>` typed by a user stays
four characters.
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


# Ranges of Unicode from which random characters are drawn.
BLOCKS = (
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x370, 0x4FF),
    (0x3000, 0x30FF),
    (0x4E00, 0x9FA5),
    (0x1F300, 0x1F64F),
)


def read_pieces(path: Path) -> Any:
    """The model file as a `sentencepiece.SentencePieceProcessor`.

    Raises:
        ImportError: `sentencepiece` is not installed.
        ValueError: there is no such file, or it is another kind of tokenizer.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "Converting the tokenizer needs: pip install 'egmf[conversion]' (or pip install sentencepiece)"
        ) from error
    if not path.is_file():
        raise ValueError(f"There is no {path}. Download it into the same folder, or convert `--only weights`.")
    content = path.read_bytes()
    if content.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder.")
    try:
        if not content:
            raise RuntimeError("it is empty")
        pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
        count = pieces.get_piece_size()
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{path} is not a SentencePiece model like ChatGLM3's ({error}).") from error
    known = {pieces.id_to_piece(i) for i in range(count)}
    extra = sorted(known & set(EXTRA_TOKENS))
    if extra:
        raise ValueError(f"{path} has {extra} as pieces; ChatGLM3 has them after the pieces.")
    if (pieces.unk_id(), pieces.eos_id()) != (0, 2):
        raise ValueError(f"{path} has <unk> {pieces.unk_id()} and </s> {pieces.eos_id()}; ChatGLM3 has 0 and 2.")
    return pieces


def extra_ids(pieces: Any) -> dict[str, int]:
    """Ids of the nine tokens after the pieces."""
    return {token: pieces.get_piece_size() + i for i, token in enumerate(EXTRA_TOKENS)}


def build_tokenizer(pieces: Any) -> "PreTrainedTokenizerFast":
    """The fast tokenizer: left padding with `<unk>`, `[gMASK] sop` before every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    extra = extra_ids(pieces)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary | extra,
            merges=list_merges(pieces),
            unk_token=pieces.id_to_piece(0),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    prefix = " ".join(PREFIX)
    end = pieces.id_to_piece(pieces.eos_id())
    prefix_ids = [(token, extra[token]) for token in PREFIX]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{prefix} $A",
        pair=f"{prefix} $A $B {end}",
        special_tokens=[*prefix_ids, (end, pieces.eos_id())],
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


def list_merges(pieces: Any) -> list[tuple[str, str]]:
    """Every split of a normal piece into two normal pieces, highest score first."""
    scores = {}
    for i in range(pieces.get_piece_size()):
        special = pieces.is_unknown(i) or pieces.is_control(i) or pieces.is_byte(i) or pieces.is_unused(i)
        if not special:
            scores[pieces.id_to_piece(i)] = pieces.get_score(i)
    merges = []
    for piece in sorted(scores, key=scores.__getitem__, reverse=True):
        for cut in range(1, len(piece)):
            left = piece[:cut]
            right = piece[cut:]
            if left in scores and right in scores:
                merges.append((left, right))
    return merges


# ---- checks ---------------------------------------------------------------------------------------------------


def sample_strings(pieces: Any, count: int = 2000, seed: int = 0) -> list[str]:
    """Strings to compare: the fixed samples, random pieces with or without spaces between them, random characters."""
    rng = random.Random(seed)  # noqa: S311
    normal = [i for i in range(pieces.get_piece_size()) if not pieces.is_byte(i)]
    words = [pieces.id_to_piece(i).replace("▁", " ") for i in normal]
    strings = [*SAMPLES]
    while len(strings) < count:
        kind = rng.randrange(3)
        length = rng.randint(1, 12)
        if kind == 2:
            characters = [chr(rng.randint(*rng.choice(BLOCKS))) for _ in range(length)]
            strings.append("".join(characters))
        else:
            separator = ("", " ")[kind]
            strings.append(separator.join(rng.choice(words) for _ in range(length)))
    return strings


def check_tokenizer(tokenizer: "PreTrainedTokenizerFast", pieces: Any) -> int:
    """Compare ids, prefix, decoded text and special ids with `sentencepiece`.

    Returns:
        Number of strings compared.

    Raises:
        ValueError: any of them differs.
    """
    strings = sample_strings(pieces)
    prefix = [extra_ids(pieces)[token] for token in PREFIX]
    plain = tokenizer(strings, add_special_tokens=False)["input_ids"]
    prefixed = tokenizer(strings)["input_ids"]
    decoded = tokenizer.batch_decode(plain)
    wrong = []
    for i, text in enumerate(strings):
        ids = pieces.encode(text)
        if plain[i] != ids or prefixed[i] != prefix + ids or decoded[i] != pieces.decode(ids):
            wrong.append(text)
    if wrong:
        raise ValueError(
            f"The converted tokenizer differs from sentencepiece on {len(wrong)} of {len(strings)} strings, such as "
            f"{wrong[0]!r}: this tokenizer.model is not like ChatGLM3's (BPE, byte fallback, no normalization)."
        )
    _check_special_ids(tokenizer, pieces)
    return len(strings)


def _check_special_ids(tokenizer: "PreTrainedTokenizerFast", pieces: Any) -> None:
    values = {
        "length": (len(tokenizer), pieces.get_piece_size() + len(EXTRA_TOKENS)),
        "padding_side": (tokenizer.padding_side, "left"),
        "pad_token_id": (tokenizer.pad_token_id, pieces.unk_id()),
        "eos_token_id": (tokenizer.eos_token_id, pieces.eos_id()),
    }
    for token, number in extra_ids(pieces).items():
        values[token] = (tokenizer.convert_tokens_to_ids(token), number)
    for name, (value, expected) in values.items():
        if value != expected:
            raise ValueError(f"The converted tokenizer has {name} {value!r}; it should be {expected!r}.")


def write_tokenizer(source: Path, folder: Path, vocab_size: int | None = None) -> int:
    """Write the tokenizer and a generation config with its end tokens into a folder, reload and check them.

    Args:
        source: folder with `tokenizer.model`.
        folder: folder to write.
        vocab_size: rows of the embedding matrix, if known; every id must be below it.

    Returns:
        Number of strings on which it agrees with `sentencepiece`.

    Raises:
        ImportError: `sentencepiece` is not installed.
        ValueError: the file is missing or of another kind, or the result differs.
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
