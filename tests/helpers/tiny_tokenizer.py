"""A tokenizer that is trained in a moment, on a few lines of English and Chinese."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


CORPUS = (
    "Voice and face: words of the transcript stand here. The speaker's emotion is joy, anger, sadness, fear, disgust.",
    "The speaker's emotion is neutral. The speaker's emotion is surprise. I can't believe it! I'm fine, thank you.",
    "The speaker's sentiment from -3 to 3 is -1.5, -0.4, 0.0, 0.7, 1.2, 2.8 or 3.0. That was a wonderful film.",
    "声音和表情：话语：说话人的情绪是：愤怒 厌恶 恐惧 高兴 平静 悲伤 惊奇",
    "说话人的情感值（-1到1）是：-0.8 0.2 1.0 我很好，谢谢你。真没想到！",
)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE. Texts begin with <s> (0); </s> (1) ends them; there is no padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        clean_up_tokenization_spaces=False,
    )
