"""What a vision-language model reads: pictures as transformers' image processor gives them, prompts, talk as tokens."""

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from small_vlm import BUCKET, PICTURE, TIED, UNTIED, picture, prompts
from tokenizers import decoders, models, pre_tokenizers, trainers

from narrative_jax.core.errors import InputError
from narrative_jax.models import chat_tokenizer
from narrative_jax.models.chat_tokenizer import ChatTokenizer, question, train_chat_tokenizer
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.models.tokenizer import TOKENIZER
from narrative_jax.models.vlm_inputs import as_patches, collate, fitted_size, read_picture
from narrative_jax.models.vlm_vision import TOWER
from narrative_jax.rewards.nireward_files import BACKBONE
from narrative_jax.rewards.nireward_sizes import NIREWARD_SIZES
from narrative_jax.storybook.descriptions import phrases


@pytest.mark.parametrize("config", [TOWER, TIED.vision, UNTIED.vision], ids=["published", "tied", "untied"])
def test_pictures(config):
    """Patches, their order and their number are those of transformers' image processor."""
    qwen = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    side = config.side
    least, most = 2 * side**2, 20 * side**2
    processor = qwen.Qwen2VLImageProcessorPil(
        size={"shortest_edge": least, "longest_edge": most}, patch_size=config.patch_size, merge_size=config.merge
    )
    rng = np.random.default_rng(0)
    for shape in ((37, 61), (side, side), (200, 90), (5, 9), (2 * side, 3 * side)):
        image = rng.integers(0, 256, (*shape, 3), np.uint8)
        expected = processor(images=[image])
        found = read_picture(image, config, least, most)
        assert [1, found.rows, found.columns] == list(expected["image_grid_thw"][0])
        frames = expected["pixel_values"].reshape(len(found.patches), 3, 2, -1)
        np.testing.assert_array_equal(frames[:, :, 0], frames[:, :, 1])
        ours = found.patches.reshape(len(found.patches), 3, -1)
        np.testing.assert_allclose(ours, frames[:, :, 0], atol=2e-6)


def test_sizes_of_pictures():
    qwen = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    rng = np.random.default_rng(0)
    for height, width, side in zip(*rng.integers(1, 3000, (2, 500)), rng.integers(4, 60, 500), strict=True):
        if max(height, width) > 200 * min(height, width):
            continue
        given = int(height), int(width), int(side), 3 * int(side) ** 2, 900 * int(side) ** 2
        assert fitted_size(*given) == qwen.smart_resize(*given)


def test_a_picture_reaches_the_loss():
    """Patches are a function of pixels, in JAX as in numpy, so that a score has a gradient with respect to them."""
    images = np.random.default_rng(0).normal(size=(2, 16, 24, 3)).astype(np.float32)
    patches = as_patches(images, TIED.vision)
    assert patches.shape == (2, 24, 48)
    np.testing.assert_array_equal(as_patches(jnp.asarray(images), TIED.vision), patches)
    first = images[:, :4, 4:8].transpose(0, 3, 1, 2).reshape(2, -1)
    np.testing.assert_array_equal(patches[:, 1], first)


def test_prompts_that_do_not_fit():
    config, one = TIED.vision, prompts(TIED)[0]

    def refused(message, asked, **bucket):
        with pytest.raises(InputError, match=message):
            collate([asked], **{**BUCKET, **bucket}, picture_token=PICTURE, config=config)

    count = len(one.pictures[0].patches)
    refused(rf"a prompt of {count} patches: this batch has room for 4; make room", one, patches=4)
    refused(r"a prompt of \d+ tokens: this batch has room for 5", one, length=5)
    refused("patches 6: 4 patches merge into one token; give 8", one, patches=6)
    refused("a prompt with 1 places for pictures: it has 0 pictures", one._replace(pictures=()))
    with pytest.raises(InputError, match="a picture of 1 × 201: one side is up to 200 times the other; crop it"):
        picture(TIED, (1, 201))


MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
# What the published template makes of a user's turn, as jinja.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def trained(marks=MARKS):
    """A tokeniser of bytes, as Qwen's is, with a few merges."""
    rules = tokenizers.Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    rules.train_from_iterator(
        ["a dog, a duck and a dog"],
        trainers.BpeTrainer(vocab_size=300, special_tokens=marks, initial_alphabet=alphabet, show_progress=False),
    )
    return rules


def test_questions(tmp_path):
    """Text and tokens are those of transformers' template and tokeniser."""
    transformers = pytest.importorskip("transformers")
    trained().save(str(tmp_path / "tokenizer.json"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    parts = [{"type": "image"}, {"type": "text", "text": "is "}, {"type": "image"}, {"type": "text", "text": "a dög?"}]
    asked = {"conversation": [{"role": "user", "content": parts}], "chat_template": TEMPLATE}
    text = question(f"{chat_tokenizer.PICTURE}is {chat_tokenizer.PICTURE}a dög?")
    assert text == theirs.apply_chat_template(**asked, add_generation_prompt=True, tokenize=False)
    ours = ChatTokenizer.load(tmp_path / "tokenizer.json")
    tokens = ours.encode(text)
    assert tokens.dtype == np.int32 and list(tokens) == theirs(text, add_special_tokens=False)["input_ids"]
    assert (tokens == ours.picture).sum() == 2 and (tokens == ours.end).sum() == 2
    answer = [*ours.encode("a dög, a duck"), ours.end, ours.pad, ours.pad]
    assert ours.decode(answer) == "a dög, a duck"


def test_tokenisers_of_other_models(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match=r"tokenizer\.json: it is no readable tokenizer\.json"):
        ChatTokenizer.load(path)
    trained(MARKS[:-1]).save(str(path))
    with pytest.raises(
        InputError, match=r"the tokeniser: it has no token <\|image_pad\|>; give the tokenizer.json of a"
    ):
        ChatTokenizer.load(path)


def test_phrases_are_a_token_each(tmp_path):
    """Behind a space, whatever follows, also once they were written and read; other words are byte pairs."""
    phrases = ["golden skin", "red cap"]
    train_chat_tokenizer(["Ann: golden skin 1, red cap nobody."] * 3, 270, phrases).save(tmp_path / "tokenizer.json")
    tokenizer = ChatTokenizer.load(tmp_path / "tokenizer.json")
    assert tokenizer.vocab_size == 270
    found = {"Ann: golden skin 1, red cap nobody.": phrases, "golden skin": [], "a redcap, red cap": ["red cap"]}
    for text, there in found.items():
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert [words for each in tokens if (words := tokenizer.decode([each]).strip()) in phrases] == there


def test_the_tokeniser_that_ships_has_a_token_for_all_that_is_said_of_a_figure():
    tokenizer = ChatTokenizer.load(BACKBONE / TOKENIZER)
    assert [len(tokenizer.encode(f" {each}")) for each in phrases()] == [1] * len(phrases())
    assert tokenizer.vocab_size == NIREWARD_SIZES[STORYBOOK][0].vocab_size
