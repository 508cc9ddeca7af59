"""Very long transcripts and turns: only their beginning is tokenized, and the prompt is that of the whole text."""

import random
from types import MethodType

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from processing_egmf import EGMFProcessor
from processing_egmf.prompts_egmf import CHARACTERS_PER_TOKEN
from tests.helpers.tiny_tokenizer import CORPUS


SPECIAL = {"special_tokens": ["<s>", "</s>", "<unk>"], "show_progress": False}
# Longer than what a prompt of `MAX_LENGTH` tokens tokenizes at first, 4,096 characters.
MAX_LENGTH = 64
TEXTS = {
    "words": " ".join(random.Random(0).choices(" ".join(CORPUS).split(), k=4000)),
    "one word": "wonderful" * 2000,
    "letters": "".join(random.Random(1).choices("abcdefgh", k=30_000)),
    "one letter": "a" * 30_001,
    "spaces": "a" + " " * 40_000 + "wonderful film " * 3000,
    "newlines": "I'm fine.\n\n" * 4000,
    "Chinese": "真没想到！我很好，谢谢你。" * 2000,
    "combined characters": "e\u0301a\u0308" * 9000,
    "invisible characters": "\u200b\u00ad" * 20_000 + "a film",
    "digits": "".join(map(str, range(9000))),
    "a token of many characters": "-" * 30_000 + " joy" * 200,
}


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


def words_as_wholes() -> PreTrainedTokenizerFast:
    """As the tokenizers of Llama 2: spaces are letters, and nothing ends a word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    words = [word for line in CORPUS for word in line.split()]
    tokenizer.train_from_iterator(
        [*words, TEXTS["letters"], TEXTS["digits"], "-" * 2000], trainers.BpeTrainer(vocab_size=600, **SPECIAL)
    )
    return wrap(tokenizer)


def most_probable_pieces() -> PreTrainedTokenizerFast:
    """As SentencePiece's unigram model, with composed characters, and without those of no width."""
    tokenizer = Tokenizer(models.Unigram())
    invisible = normalizers.Replace("\u200b", "")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), invisible, normalizers.Replace("\u00ad", "")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", **SPECIAL)  # noqa: S106
    tokenizer.train_from_iterator([*CORPUS, "-" * 2000, "abcdefgh0123456789"], trainer)
    return wrap(tokenizer)


@pytest.fixture(scope="module", params=["bytes", "words as wholes", "most probable pieces"])
def processor(request, make_processor):
    if request.param == "bytes":
        return make_processor("features", None)
    tokenizer = {"words as wholes": words_as_wholes, "most probable pieces": most_probable_pieces}[request.param]()
    return EGMFProcessor(tokenizer, audio_input=None, video_input=None)


def whole_texts(processor, *arguments, **inputs):
    """The prompt as if all of a text were tokenized."""
    whole = MethodType(lambda self, text, max_length: self._tokenize(text), processor)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processor, "_tokenize_beginning", whole, raising=True)
        return processor(*arguments, **inputs)


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("max_length", [MAX_LENGTH, 512])
def test_the_prompt_is_that_of_the_whole_text(processor, kind, max_length):
    text = TEXTS[kind]
    assert len(text) > CHARACTERS_PER_TOKEN * MAX_LENGTH
    inputs = {"text": text, "task": "emotion", "max_length": max_length, "context": [("Ann", text), "No!", text[:99]]}
    found = processor(**inputs)
    expected = whole_texts(processor, **inputs)
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    assert found["utterance_mask"].tolist() == expected["utterance_mask"].tolist()


def test_a_megabyte_is_not_tokenized_whole(make_processor, monkeypatch, caplog):
    processor = make_processor("features", None)
    lengths = []
    tokenize = processor._tokenize
    monkeypatch.setattr(processor, "_tokenize", lambda text: lengths.append(len(text)) or tokenize(text))
    processor(text="a wonderful film " * 60_000, context=["That was it. " * 80_000])
    assert max(lengths) <= CHARACTERS_PER_TOKEN * processor.max_length
    assert "was shortened to its first" in caplog.text
